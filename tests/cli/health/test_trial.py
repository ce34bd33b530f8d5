"""Does the doctor survive a TensorFlow that crashes, hangs or refuses, and say how it was?"""

from __future__ import annotations

import pytest

from tfdist.cli.health import trial


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """Puts another program in TensorFlow's place."""

    def plant(code):
        (tmp_path / "tensorflow.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))

    return plant


@pytest.mark.parametrize(
    ("code", "told"),
    [
        ("import os; os.abort()", "TensorFlow ends its process by SIGABRT"),
        ("raise ImportError('libx.so is missing')", "ImportError: libx.so is missing"),
    ],
)
def test_what_crashes_or_refuses_is_told(stand_in, code, told):
    stand_in(code)
    found = trial.run_trial("cpu")
    assert told in found.problem
    assert found.cure


def test_what_hangs_is_told(stand_in):
    stand_in("import time; time.sleep(60)")
    found = trial.run_trial("cpu", timeout_secs=1.0)
    assert found.problem == "TensorFlow has not started within 1 s"


def test_what_starts_says_what_it_chose(monkeypatch):
    monkeypatch.setenv("TF_CONFIG", "{not json")  # the peers are not there
    found = trial.run_trial("2xcpu")
    assert found.problem == ""
    assert found.chosen[0].startswith("MirroredStrategy: replicas=2")


def test_a_device_that_is_not_there():
    assert "gpu" in trial.run_trial("gpu").problem
