"""Do Keras's own tests of its trainer and callbacks pass through tfdist, on two replicas?

They are those that the installed Keras brings along: programs that nobody here wrote. A part of
them has its turn in each commit; `make keras-own` runs all. What a part costs is a minute or two,
and what only it finds is a use of Keras's methods that no row of the table has.
"""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys

import keras
import pytest
from parity import rotation

PARTS = 8
_TESTS = pathlib.Path(__file__).parents[1]
_KERAS = pathlib.Path(keras.__file__).parent / "src"


def _files() -> list[str]:
    callbacks = sorted((_KERAS / "callbacks").glob("*_test.py"))
    files = [_KERAS / "trainers" / "trainer_test.py", *callbacks]
    # A file that needs Keras's own configuration of pytest is left out.
    return [str(file) for file in files if "from conftest" not in file.read_text()]


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_keras_own_tests_pass(tmp_path):
    part = os.environ.get("KERAS_OWN_PART", f"{rotation.turn(PARTS)}/{PARTS}")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    command = [
        sys.executable, "-m", "pytest", "-c", str(tmp_path / "pytest.ini"), "-q", "-rf",
        "-p", "support.keras_own", "-p", "no:cacheprovider", *_files(),
    ]
    paths = [str(_TESTS.parent), str(_TESTS), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=3000, cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths), "KERAS_OWN_PART": part},
    )
    assert done.returncode == 0, done.stdout[-20000:]
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 180 / int(part.partition("/")[2]) * 0.6
    print(done.stdout.splitlines()[-1])
