"""Does the suite compare both ways on as many workers, by turns, and count what a worker holds?"""

from __future__ import annotations

import json

import keras
import numpy as np
import pytest

from tfdist import launch
from tfdist.cli import benchmark, benchmark_slices


@pytest.fixture
def asked(monkeypatch) -> list[tuple[int, bool]]:
    """Answers for workers, and records who was asked for what."""
    found = []

    def run(function, *, workers, args):
        *_, is_sharded = args
        found.append((workers, is_sharded))
        return [(0.02 + rank / 100, 5 if is_sharded else 9) for rank in range(workers)]

    monkeypatch.setattr(launch, "run", run)
    return found


def test_by_turns(asked, capsys, tmp_path):
    path = tmp_path / "found.json"
    flags = ["--suite=sharding", "--workers=1,3", "--rounds=2", f"--output={path}"]
    assert benchmark.main(flags) == 0
    assert asked == [(3, False), (3, True), (3, True), (3, False)]
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


@pytest.mark.parametrize(("is_sharded", "held"), [(True, 4 * 32 + 12), (False, 8 * 32 + 12)])
def test_what_a_replica_holds_is_counted(logical_cpus, is_sharded, held):
    secs, found = benchmark_slices.time_and_hold(_case, 4, 1, "2xcpu", is_sharded)
    assert secs > 0
    assert found == held  # two momentums, and the number of steps and the rate
