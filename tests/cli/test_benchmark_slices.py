"""Does the suite compare both ways on as many workers, by turns, and count what a worker holds?"""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from tfdist import launch
from tfdist.cli import benchmark, benchmark_slices, timing


@pytest.fixture
def asked(monkeypatch) -> list[tuple[int, int]]:
    """Answers for workers, and records how many were asked for how many turns."""
    found = []

    def run(function, *, workers, args):
        *_, rounds, kinds, _after = args
        found.append((workers, rounds))
        return [
            [[(0.02 + rank / 100, 5 if kind["sharded_optimizer"] else 9) for kind in kinds]
             for _ in range(rounds)]
            for rank in range(workers)
        ]  # fmt: skip

    monkeypatch.setattr(launch, "run", run)
    return found


def test_the_slower_worker_counts(asked, capsys, tmp_path):
    path = tmp_path / "found.json"
    flags = ["--suite=sharding", "--workers=1,3", "--rounds=2", f"--output={path}"]
    assert benchmark.main(flags) == 0
    assert asked == [(3, 2)]
    shown = capsys.readouterr().out
    assert "3 worker(s), global batch 192: 40.0 ms a step in slices, 40.0 whole (1.00)" in shown
    found = json.loads(path.read_text())["slices"]
    assert (found["state_bytes"], found["state_bytes_whole"]) == (5, 9)


def _case():
    def build():
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, use_bias=False)])
        model.compile("adam", "mse")
        return model

    return build, np.ones((5, 4), "float32"), np.ones((5, 8), "float32")


def test_one_model_is_timed_both_ways(logical_cpus):
    kinds, held = benchmark_slices.KINDS, benchmark_slices.held_bytes
    found = timing.time_turns(_case, 4, 1, "2xcpu", 3, kinds, held)
    assert len(found) == 3
    for (secs, own), (secs_whole, whole) in found:
        assert min(secs, secs_whole) > 0
        # Two momentums, and the number of steps and the rate.
        assert (own, whole) == (4 * 32 + 12, 8 * 32 + 12)
