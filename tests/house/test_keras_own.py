"""Do Keras's own tests of its trainer, callbacks and layers pass through tfdist, on two replicas?

They are those that the installed Keras brings along: programs that nobody here wrote. A part of
them has its turn in each commit; `make keras-own` runs all. What a part costs is a minute or two,
and what only it finds is a use of Keras's methods, or a layer, that no row of the table has.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
from typing import Any

import keras
import pytest
from parity import rotation

PARTS, LAYER_PARTS = 8, 16
_TESTS = pathlib.Path(__file__).parents[1]
_KERAS = pathlib.Path(keras.__file__).parent / "src"


def _files() -> list[str]:
    callbacks = sorted((_KERAS / "callbacks").glob("*_test.py"))
    files = [_KERAS / "trainers" / "trainer_test.py", *callbacks]
    # A file that needs Keras's own configuration of pytest is left out.
    return [str(file) for file in files if "from conftest" not in file.read_text()]


def _part(parts: int) -> str:
    return os.environ.get("KERAS_OWN_PART", f"{rotation.turn(parts)}/{parts}")


def _run(*arguments: str, folder: pathlib.Path, **environment: str) -> Any:
    paths = [str(_TESTS.parent), str(_TESTS), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        [sys.executable, "-m", *arguments], capture_output=True, text=True, timeout=3000,
        cwd=folder, env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), **environment},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-20000:]
    print(done.stdout.splitlines()[-1])
    return done.stdout


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_keras_own_tests_pass(tmp_path):
    part = _part(PARTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    written = _run(
        "pytest", "-c", str(tmp_path / "pytest.ini"), "-q", "-rf", "-p", "support.keras_own",
        "-p", "no:cacheprovider", *_files(), folder=tmp_path, KERAS_OWN_PART=part,
    )
    passed = int(re.search(r"(\d+) passed", written)[1])
    assert passed >= 180 / int(part.partition("/")[2]) * 0.6


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_layers_train_as_on_one_device(tmp_path):
    part = _part(LAYER_PARTS)
    written = _run("support.layer_fits", part, folder=tmp_path)
    compared = int(re.search(r"(\d+) fits compared", written)[1])
    assert compared >= 330 / int(part.partition("/")[2]) * 0.6
