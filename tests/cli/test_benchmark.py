"""Does the command compare the speeds of numbers of workers, by turns, and refuse what is none?"""

from __future__ import annotations

import json

import pytest

from tfdist import launch
from tfdist.cli import benchmark, timing


@pytest.fixture
def seconds(monkeypatch):
    """Answers for workers: a step takes as long on two as on one, and records who was asked."""
    asked = []

    def run(function, *, workers, args):
        asked.append((workers, args[1]))
        return [0.5 if workers == 1 else 0.25 + 0.25 * rank for rank in range(workers)]

    monkeypatch.setattr(launch, "run", run)
    return asked


def test_weak_scaling(seconds, capsys, tmp_path):
    path = tmp_path / "speed.json"
    assert benchmark.main(["--rounds=2", "--global_batch_size=10", f"--output={path}"]) == 0
    assert seconds == [(1, 10), (2, 20), (1, 10), (2, 20)]
    shown = capsys.readouterr().out
    assert "1 worker(s), global batch 10: 20 examples a second (20 to 20), 1.00 times" in shown
    # The slower worker counts.
    assert "2 worker(s), global batch 20: 40 examples a second (40 to 40), 2.00 times" in shown
    assert [row["speed_up"] for row in json.loads(path.read_text())["speeds"]] == [1.0, 2.0]


def test_strong_scaling(seconds, capsys):
    assert benchmark.main(["--rounds=1", "--strong", "--workers=2,1"]) == 0
    assert seconds == [(2, 64), (1, 64)]
    assert "1.00 times that of 2" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--workers=0"], "--workers=0 must be numbers from 1"),
        (["--workers=a"], "--workers=a must be numbers from 1"),
        (["--suite=sharding", "--workers=1"], "--suite=sharding needs two workers or more"),
        (["--target=a"], "--target='a' names no function"),
        (["program.py"], "'program.py' is no flag"),
    ],
)
def test_what_is_none_is_told(flags, told, capsys):
    with pytest.raises(SystemExit) as ended:
        benchmark.main(flags)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_step_is_timed(logical_cpus):
    assert timing.time_fit(_small, 4, 2, "2xcpu") > 0


def _small():
    import keras
    import numpy as np

    def build():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model

    return build, np.ones((5, 3), "float32"), np.ones((5, 1), "float32")
