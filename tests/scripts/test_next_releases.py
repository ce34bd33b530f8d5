"""Is what fails on the releases that come next told, and an error once they are released?"""

from __future__ import annotations

import pathlib
import re
import runpy
import subprocess
import sys

import pytest

import tfdist

_SCRIPTS = pathlib.Path(tfdist.__file__).parent.parent / "scripts"


@pytest.fixture(scope="module")
def script():
    sys.path.insert(0, str(_SCRIPTS))
    try:
        yield runpy.run_path(str(_SCRIPTS / "next_releases.py"))
    finally:
        sys.path.remove(str(_SCRIPTS))


@pytest.mark.parametrize(
    ("release", "is_final"),
    [
        ("tensorflow_cpu==2.22.0", True),
        ("tensorflow-cpu==2.22.1.post1", True),
        ("tensorflow_cpu==2.22.0rc0", False),
        ("keras==3.16.0", True),
        ("keras==3.16.0.dev0", False),
        ("keras-nightly==3.16.0.dev2026102704", False),
        ("tf_nightly_cpu==2.23.0.dev20261027", False),
    ],
)
def test_final_releases_are_told_from_others(release, is_final, script):
    assert script["is_final"](release) == is_final


@pytest.mark.parametrize(
    ("code", "keras", "words", "ends_with"),
    [
        (0, "keras==3.16.0", "passed on tensorflow_cpu==2.22.0 and keras==3.16.0.", 0),
        (0, "keras-nightly==3.16.0.dev1", "passed on", 0),
        (1, "keras==3.16.0", "FAILED on tensorflow_cpu==2.22.0 and keras==3.16.0, which are", 1),
        (1, "keras-nightly==3.16.0.dev1", "FAILED on .* not released yet", 0),
    ],
)
def test_failure_is_an_error_where_both_are_final(code, keras, words, ends_with, script):
    verdict, ended_with = script["judge"](code, ["tensorflow_cpu==2.22.0", keras])
    assert ended_with == ends_with
    assert re.search(words, verdict)


@pytest.mark.slow
def test_release_that_the_index_lacks_is_told(tmp_path):
    """An index of no packages; the environment is made, and nothing else."""
    done = subprocess.run(
        [sys.executable, str(_SCRIPTS / "next_releases.py"), f"--venv={tmp_path}/venv",
         "--pins=tensorflow-cpu>=2.99.dev0"],
        env={"PATH": "/usr/bin:/bin", "PIP_NO_INDEX": "1", "PIP_CONFIG_FILE": "/dev/null"},
        capture_output=True, text=True, check=False, timeout=100,
    )
    assert done.returncode == 0, done.stderr
    assert "test-next: NOT RUN, since tensorflow-cpu>=2.99.dev0 cannot be installed." in done.stdout


def test_keras_of_a_night_is_not_written_over(script):
    setup_env = sys.modules["setup_env"]
    wanted = setup_env.requirements(["test"], but="keras")
    assert any(line.startswith("pytest>=") for line in wanted)
    assert any(line.startswith("absl-py>=") for line in wanted)
    assert not [line for line in wanted if line.startswith("keras")]
