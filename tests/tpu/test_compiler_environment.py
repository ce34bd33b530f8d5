"""tests of tfdist/tpu/compiler_environment.py; preflighting's tests make a real one"""

from __future__ import annotations

import configparser
import pathlib
import sys
import threading
import time

import pytest

from tfdist.tpu import compiler_environment


def test_pins_are_those_of_the_extra() -> None:
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(__file__).parents[2] / "setup.cfg")
    extra = setup["options.extras_require"]["tpu-preflight"].split()
    assert tuple(extra) == compiler_environment.PINS


def test_a_named_environment_is_used_as_it_is(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"venv='.*' holds no python\. Make it with"):
        compiler_environment.compiler_python(venv=tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    assert compiler_environment.compiler_python(venv=tmp_path) == tmp_path / "bin" / "python"


def _fake_make(folder: pathlib.Path) -> None:
    time.sleep(0.1)
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").touch()
    (folder / "ready").touch()


def test_it_is_made_once(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[pathlib.Path] = []

    def make(folder: pathlib.Path) -> None:
        made.append(folder)
        _fake_make(folder)

    monkeypatch.setattr(compiler_environment, "_make", make)
    found: list[pathlib.Path] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(compiler_environment.compiler_python(cache_dir=tmp_path))
        )
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(made) == 1
    assert set(found) == {made[0] / "bin" / "python"}


def test_new_pins_make_a_new_one(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_environment, "_make", _fake_make)
    before = compiler_environment.compiler_python(cache_dir=tmp_path)
    monkeypatch.setattr(compiler_environment, "PINS", (*compiler_environment.PINS, "more==1"))
    assert compiler_environment.compiler_python(cache_dir=tmp_path) != before


@pytest.mark.slow
def test_failure_of_pip_is_told(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiler_environment, "PINS", ("./no-such-folder",))
    with pytest.raises(RuntimeError, match=r"(?s)exit code 1: .*no-such-folder.*by venv=\."):
        compiler_environment.compiler_python(cache_dir=tmp_path)
    assert not list(tmp_path.glob("*/ready"))


def test_python_that_is_too_old(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 0, "final", 0))
    with pytest.raises(RuntimeError, match=r"needs Python 3\.11 or newer, and this is 3\.10"):
        compiler_environment.compiler_python(cache_dir=tmp_path)
