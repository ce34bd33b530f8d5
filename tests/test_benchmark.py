"""Is tfdist as much faster as it was?  Ratios with wide room, since machines are busy."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from tfdist import report
from tfdist.split import Split

_SCRIPTS = pathlib.Path(__file__).parent.parent / "scripts"

# About half of what was measured: what falls below is no noise.
_LEAST = {
    "fit / keras fit": 1.5,
    "fit / keras fit, bar": 1.5,
    "evaluate / keras evaluate": 0.6,
    "predict / keras predict": 0.6,
    "first step / keras": 0.5,
}


def run(*flags: str, timeout: float) -> str:
    done = subprocess.run(
        [sys.executable, str(_SCRIPTS / "benchmark.py"), *flags],
        capture_output=True, text=True, timeout=timeout, check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_ratio_has_fallen(tmp_path):
    path = tmp_path / "out.json"
    run("--suite=step", "--rounds=3", "--steps=300", f"--output={path}", timeout=500)
    found = {row["name"]: row["median"] for row in json.loads(path.read_text())["ratios"]}
    assert set(found) >= set(_LEAST)
    raw = {name: value for name, value in found.items() if "raw loop" in name}
    assert raw
    slower = {name: found[name] for name, least in _LEAST.items() if found[name] < least}
    assert not slower
    assert not {name: value for name, value in raw.items() if value < 0.5}


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_memory_is_that_of_a_loop_by_hand(tmp_path):
    path = tmp_path / "out.json"
    run("--suite=memory", f"--output={path}", timeout=300)
    [row] = json.loads(path.read_text())["ratios"]
    assert row["median"] > 0.9  # aim: 0.98


def test_unknown_suite():
    done = subprocess.run(
        [sys.executable, str(_SCRIPTS / "benchmark.py"), "--suite=stp"],
        capture_output=True, text=True, timeout=100, check=False,
    )
    assert done.returncode != 0
    assert "--suite has ['stp']; there are step" in done.stdout + done.stderr


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of matplotlib's own imports
def test_forecasts_go_into_the_file(monkeypatch, tmp_path):
    """The scaling suite on times that are made up: ratios, predictions and pictures."""
    pytest.importorskip("matplotlib", reason="needs the extra plot")
    monkeypatch.syspath_prepend(str(_SCRIPTS))
    import benchmark_scaling

    def of(workers, global_batch, rounds, *, has_passes):
        communication = 0.01 * (workers - 1)
        split = Split(0.0, 0.1 * global_batch / 64 / workers, communication, 0.0)
        found = {"secs": split.secs, "split": split, "bytes": 10**6}
        passes = {"evaluate": 0.1 * workers, "predict": 0.1, "evaluate's start": 0.0,
                  "predict's start": 0.0}
        return {**found, **passes} if has_passes else found

    monkeypatch.setattr(benchmark_scaling, "_pinned", of)
    monkeypatch.setattr(benchmark_scaling, "_replicas", lambda device, rounds: 0.2)
    found = benchmark_scaling.suite_scaling(1, str(tmp_path / "a.png"))
    ratios = [row for row in found if isinstance(row, report.Ratio)]
    weak, strong, evaluate, predict, replicas = ratios
    assert weak.median == pytest.approx(0.1 / 0.11)
    assert strong.median == pytest.approx(0.1 / (2 * 0.06))
    assert (evaluate.median, predict.median) == (0.5, 1.0)
    assert replicas.median == 1.0
    forecasts = [row for row in found if not isinstance(row, report.Ratio)]
    assert [row.is_strong for row in forecasts] == [False, True]
    assert all(row.worst_error == pytest.approx(0.0, abs=1e-9) for row in forecasts)
    assert {path.name for path in tmp_path.iterdir()} == {"a_weak.png", "a_strong.png"}
