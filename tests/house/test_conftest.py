"""Do the guards around every test really catch what they are for?"""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import sys

import pytest
from parity import rotation

_TESTS = pathlib.Path(__file__).parents[1]

_GUARDED = {
    "a variable of workers is left set": (
        "import os\ndef test(): os.environ['TF_CONFIG'] = '{}'\ndef test_next(): pass",
        "the test left these variables changed: {'TF_CONFIG': '{}'}",
    ),
    "a process is left running": (
        "import subprocess\ndef test(): subprocess.Popen(['sleep', '77'])\ndef test_next(): pass",
        "'sleep 77'",
    ),
    "a process of a process is left running": (
        "import subprocess\ndef test(): subprocess.run(['sh', '-c', 'sleep 78 & exit'])\n"
        "def test_next(): pass",
        "'sleep 78'",
    ),
    "TensorFlow starts before it is split": (
        "def test():\n    import tensorflow as tf\n    tf.constant(1)\ndef test_next(): pass",
        "let it use `logical_cpus`",
    ),
}

_FREE = """
import os, subprocess, time
import pytest

def test_other_variables_are_restored():
    os.environ["SOME_VARIABLE"] = "1"

def test_they_were():
    assert "SOME_VARIABLE" not in os.environ

def test_monkeypatch_leaves_nothing(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{}")

def test_none_comes_in_from_outside():
    assert "SLURM_PROCID" not in os.environ

def test_process_that_ended():
    subprocess.run(["true"])

def test_process_that_ends_soon():
    subprocess.Popen(["sleep", "0.3"])

def test_settings_of_keras(logical_cpus):
    import keras
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")

def test_they_are_restored_too(logical_cpus):
    import keras, tensorflow as tf
    assert keras.config.floatx() == "float32"
    assert keras.config.dtype_policy().name == "float32"
    assert len(tf.config.list_logical_devices("CPU")) == logical_cpus == 4
"""


def _pytest(folder: pathlib.Path, code: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(_TESTS / "conftest.py", folder)
    (folder / "test_sample.py").write_text(code)
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(("code", "message"), _GUARDED.values(), ids=_GUARDED)
def test_guard_fails_the_test(code, message, tmp_path):
    done = _pytest(tmp_path, code)
    assert done.returncode == 1
    assert message in done.stdout
    assert "2 passed, 1 error" in done.stdout or "1 passed, 1 error" in done.stdout


@pytest.mark.slow
def test_what_is_allowed_passes(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_PROCID", "3")
    done = _pytest(tmp_path, _FREE)
    assert "8 passed" in done.stdout, done.stdout


def test_every_case_of_a_slow_test_has_its_turn(request, monkeypatch):
    """Each waits in one commit and runs in the next."""
    conftest = next(
        plugin for plugin in request.config.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", "") == str(_TESTS / "conftest.py")
    )  # fmt: skip

    class Case:
        callspec, path = None, _TESTS / "house" / "test_conftest.py"

        def __init__(self, number):
            self.nodeid = f"tests/house/test_conftest.py::test_case[{number}]"

        def get_closest_marker(self, name):
            return name == "slow" or None

    ran = []
    for turn in range(rotation.SLOW_CASES):
        monkeypatch.setattr(rotation, "commit", lambda turn=turn: f"{turn:08x}" + 32 * "0")
        ran.append({n for n in range(40) if not conftest._waits_for_its_turn(Case(n))})
    assert sorted(n for part in ran for n in part) == list(range(40))
    assert all(part for part in ran)
    del Case.callspec  # no test of several cases
    assert not any(conftest._waits_for_its_turn(Case(n)) for n in range(40))
    monkeypatch.setattr(Case, "path", _TESTS / "scripts" / "test_benchmark.py")
    assert 0 < sum(conftest._waits_for_its_turn(Case(n)) for n in range(40)) < 40
    monkeypatch.setattr(Case, "path", _TESTS / "house" / "test_parity.py")
    assert not any(conftest._waits_for_its_turn(Case(n)) for n in range(40))
