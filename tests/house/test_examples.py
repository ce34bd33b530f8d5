"""Do the examples train as well on two workers as on one device, and as well as they say?

Each program of examples/ runs on one device and on two workers, both by `tfdist run`, so that both
see the data in the same order. Smaller than people run it, since three processes load TensorFlow:
about a minute of a core. One of them has its turn in each commit; `make programs` has all.
"""

from __future__ import annotations

import ast
import dataclasses
import pathlib
import re
import shutil
import subprocess
import sys

import pytest
from launching import environ_with
from parity import rotation

_FOLDER = pathlib.Path(__file__).resolve().parents[2] / "examples"
_LIMIT_SECS = 400.0


@dataclasses.dataclass(frozen=True)
class _Example:
    """What an example is asked for here, and what it has to reach.

    `near` is how far the two may be apart: float32 sums in another order, after some hundred steps.
    """

    flags: tuple[str, ...]
    metric: str
    least: float = 0.0
    most: float = float("inf")
    near: float = 0.02


_EXAMPLES = {
    "characters": _Example(
        ("--letters=60000", "--epochs=2", "--width=64", "--sample=5"), "bits_a_letter", most=4.5
    ),
    "dates": _Example(("--dates=3000", "--epochs=8"), "letters_right", least=0.7, near=0.06),
    "digits": _Example(("--epochs=8",), "test_accuracy", least=0.93),
    "gan": _Example(("--epochs=40",), "distance", most=8.0, near=1.0),
    "lanes": _Example(("--pictures=160", "--epochs=6"), "test_iou", least=0.6, near=0.1),
    "lora": _Example(
        ("--letters=40000", "--epochs=3", "--lora_epochs=2", "--width=32", "--layers=1",
         "--batch_size=16", "--sample=5"),
        "bits_a_letter", most=5.0, near=0.1,
    ),
    "predictions": _Example(("--epochs=8",), "test_accuracy", least=0.85, near=0.06),
    "private_digits": _Example(("--epochs=25",), "test_accuracy", least=0.9, near=0.06),
    "recommendation": _Example(("--epochs=3",), "hit_rate_at_10", least=0.35),
    "speech": _Example(("--takes=2", "--epochs=25"), "test_accuracy", least=0.5, near=0.15),
    "tabular": _Example(("--epochs=10",), "test_accuracy", least=0.93),
    "text": _Example(("--most=300", "--epochs=3"), "test_accuracy", least=0.4, near=0.06),
}


def _run(name: str, *flags: str, folder: pathlib.Path) -> float:
    """Runs an example in a folder, which holds what it writes; returns what it reaches."""
    folder.mkdir()
    command = [sys.executable, "-m", "tfdist", "run", "--device=cpu", *flags,
               str(_FOLDER / f"{name}.py"), *_EXAMPLES[name].flags]
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, timeout=_LIMIT_SECS,
        env=environ_with(TF_CPP_MIN_LOG_LEVEL="3"),
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert "nothing was distributed" not in done.stderr
    return float(re.findall(rf"\b{_EXAMPLES[name].metric}=([-\d.e]+)", done.stdout)[-1])


def _marked(name: str) -> object:
    """One example has its turn; this costs a minute of a core, and only it sees what people see."""
    marks = [pytest.mark.slow]
    if name != _with_turn():
        marks.append(pytest.mark.table)
    return pytest.param(name, marks=marks)


def _with_turn() -> str:
    return sorted(_EXAMPLES)[rotation.turn(len(_EXAMPLES))]


@pytest.mark.timeout(2 * _LIMIT_SECS)
@pytest.mark.parametrize("name", [_marked(name) for name in _EXAMPLES])
def test_example_reaches_its_metric(name, tmp_path):
    if "sklearn" in (_FOLDER / f"{name}.py").read_text():
        pytest.importorskip("sklearn", reason="needs the extra examples")
    if name == "dates":
        pytest.importorskip("babel", reason="needs the extra examples")
    if name == "lora":
        pytest.importorskip("keras_hub", reason="needs KerasHub: scripts/setup_env.py --extras=hub")
    if name == "speech" and shutil.which("espeak-ng") is None:
        pytest.skip("needs espeak-ng: sudo bash scripts/setup_engines.sh")
    example, alone = _EXAMPLES[name], _run(name, folder=tmp_path / "alone")
    both = _run(name, "--workers=2", folder=tmp_path / "both")
    for found in (alone, both):
        assert example.least <= found <= example.most
    assert both == pytest.approx(alone, abs=example.near)


def test_each_example_is_tested_told_and_short():
    names = {path.stem for path in _FOLDER.glob("*.py")}
    assert names == set(_EXAMPLES)
    table = (_FOLDER / "README.md").read_text()
    for name in names:
        text = (_FOLDER / f"{name}.py").read_text()
        assert len(text.splitlines()) <= 150
        assert f"| [{name}](./{name}.py) |" in table
        docstring = ast.get_docstring(ast.parse(text)) or ""
        assert f"python examples/{name}.py" in docstring
        assert "tfdist run " in docstring
        assert "Data: " in docstring
        imported = re.findall(r"^(?:import|from) (tfdist\S*)", text, re.MULTILINE)
        assert imported in ([], ["tfdist"])  # plain Keras; the digits are tfdist's
        if imported:
            assert "from tfdist import datasets" in text


@pytest.mark.parametrize("name", sorted(_EXAMPLES))
def test_flags_of_an_example_are_its_own(name):
    """Each flag that is given here is one that the file defines."""
    text = (_FOLDER / f"{name}.py").read_text()
    for flag in _EXAMPLES[name].flags:
        assert f'("{flag[2:].partition("=")[0]}", ' in text.replace("(\n    ", "(")


def test_every_example_has_its_turn(monkeypatch):
    seen = set()
    for turn in range(len(_EXAMPLES)):
        monkeypatch.setattr(rotation, "commit", lambda turn=turn: f"{turn:08x}" + 32 * "0")
        seen.add(_with_turn())
    assert seen == set(_EXAMPLES)
