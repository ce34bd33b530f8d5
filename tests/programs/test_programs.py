"""Do whole programs of plain Keras, run unchanged by `tfdist run`, end as they do on one device?

Each other file of this folder is a program in the shape of people's examples. It computes in
float64 and writes its weights, history and predictions to the path in its first argument, on each
worker to a path of its own. It runs in a process by itself, and so takes long: one commit has a
part of the programs, in all worlds; `make programs` runs all of them.
"""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from launching import environ_with
from parity import rotation

_PARTS = 5  # in how many the programs go round
_TOLERANCE = 1e-9
_LIMIT_SECS = 280.0
_HERE = pathlib.Path(__file__).parent
_PROGRAMS = sorted(path.stem for path in _HERE.glob("*.py") if not path.stem.startswith("test_"))
# How each world is asked for, and who writes results in it.
_WORLDS = {
    "2 replicas": (("--device=2xcpu",), ("",)),
    "2 workers": (("--workers=2", "--device=cpu"), ("0", "1")),
}
# What is not right yet, with what is seen. Each of these fails, or it has to go from this list.
_OPEN: dict[str, str] = {}


def _marked(name: str) -> Any:
    marks: list[Any] = [pytest.mark.slow]
    if not rotation.has_turn(name, _PARTS):
        marks.append(pytest.mark.table)
    if name in _OPEN:
        marks.append(pytest.mark.xfail(reason=_OPEN[name], strict=True))
    return pytest.param(name, marks=marks)


def _run(*arguments: str, folder: pathlib.Path) -> str:
    """Runs a program to its end, in a folder that holds what it writes; returns its output."""
    done = subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=environ_with(TF_CPP_MIN_LOG_LEVEL="3"), timeout=_LIMIT_SECS,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout + done.stderr


@pytest.fixture(scope="session")
def on_one_device(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """Returns a function that gives what a program writes under Python and Keras alone."""
    kept: dict[str, dict[str, np.ndarray]] = {}

    def results(name: str) -> dict[str, np.ndarray]:
        if name not in kept:
            folder = tmp_path_factory.mktemp(name)
            _run(str(_HERE / f"{name}.py"), "out", folder=folder)
            kept[name] = _read(folder / "out.npz")
        return kept[name]

    return results


def _read(path: pathlib.Path) -> dict[str, np.ndarray]:
    with np.load(path) as arrays:
        return dict(arrays)


def differences(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> list[str]:
    """Returns what differs by more than rounding, or is not there, or is no number."""
    told = [f"{name} is in one of them only" for name in sorted(set(found) ^ set(expected))]
    for name in sorted(set(found) & set(expected)):
        one, two = expected[name], found[name]
        if one.shape != two.shape:
            told.append(f"{name}: shape {two.shape} for {one.shape}")
        elif not np.isfinite(one).all():
            told.append(f"{name} is no finite number on one device")
        elif not np.allclose(two, one, rtol=_TOLERANCE, atol=_TOLERANCE):
            told.append(f"{name} differs by {np.abs(two - one).max():.1e}")
    return told


@pytest.mark.timeout(3 * _LIMIT_SECS)
@pytest.mark.parametrize("world", _WORLDS)
@pytest.mark.parametrize("name", [_marked(name) for name in _PROGRAMS])
def test_program_ends_as_on_one_device(name, world, on_one_device, tmp_path):
    flags, ranks = _WORLDS[world]
    program = os.path.relpath(_HERE / f"{name}.py", tmp_path)  # as people give it
    told = _run("-m", "tfdist", "run", *flags, program, "out", folder=tmp_path)
    assert "nothing was distributed" not in told  # so there were two replicas, and they trained
    for rank in ranks:
        assert differences(_read(tmp_path / f"out{rank}.npz"), on_one_device(name)) == []


def test_a_program_knows_nothing_of_tfdist_and_computes_in_float64():
    assert len(_PROGRAMS) >= 12
    assert set(_OPEN) <= set(_PROGRAMS)
    for name in _PROGRAMS:
        source = (_HERE / f"{name}.py").read_text()
        assert 'set_floatx("float64")' in source
        assert "tfdist" not in source.replace("TFDIST_RANK", "")


def test_what_differs_is_found():
    expected = {"weights": np.ones((2, 3)), "loss": np.array([0.5, 0.4])}
    assert differences(expected, expected) == []
    assert differences({**expected, "loss": np.array([0.5, 0.4 + 1e-11])}, expected) == []
    for loss in ([0.5, 0.41], [0.5], [0.5, np.nan]):
        assert len(differences({**expected, "loss": np.array(loss)}, expected)) == 1
    assert len(differences({"weights": np.ones((2, 3))}, expected)) == 1


def test_every_program_has_its_turn(monkeypatch):
    seen = set()
    for turn in range(_PARTS):
        monkeypatch.setattr(rotation, "commit", lambda turn=turn: f"{turn:08x}" + 32 * "0")
        ran = {name for name in _PROGRAMS if rotation.has_turn(name, _PARTS)}
        assert len(ran) < 0.6 * len(_PROGRAMS)
        seen |= ran
    assert seen == set(_PROGRAMS)
