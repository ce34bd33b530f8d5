"""Does the pair of tensorflow-tpu and libtpu that the extra `tpu` pins import?"""

from __future__ import annotations

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from tfdist.tpu import doctor

_CHECKOUT = pathlib.Path(__file__).parents[2]
# Off a TPU VM libtpu would wait for the answer of a service that is not there.
_ENVIRON = {"PATH": os.environ["PATH"], "TPU_SKIP_MDS_QUERY": "1", "TF_CPP_MIN_LOG_LEVEL": "2"}
_PROGRAM = """
import tensorflow as tf
import tfdist
from tfdist.tpu import doctor
print(tf.__version__, doctor.problem_of_packages(doctor.collect({"TPU_NAME": "made-up"})))
try:
    tfdist.get_strategy("tpu:local")
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_pinned_pair_imports(tmp_path: pathlib.Path) -> None:
    commands = doctor.pip_commands(doctor.Facts(python=sys.version_info[:2], num_chips=1))
    assert len(commands) == 1
    pins = commands[0].replace("'", "").split()[3:]
    python = tmp_path / "venv" / "bin" / "python"
    for command in (
        [sys.executable, "-m", "venv", str(tmp_path / "venv")],
        [
            # What is imported once is not worth compiling as a whole.
            str(python), "-m", "pip", "install", "-q", "--no-compile", *pins, "keras>=3.10",
            "cloudpickle",
        ],
    ):
        subprocess.run(command, check=True, capture_output=True, timeout=900)
    done = subprocess.run(
        [str(python), "-c", _PROGRAM],
        cwd=_CHECKOUT, env=_ENVIRON, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    shutil.rmtree(tmp_path / "venv")  # two gigabytes, and pytest keeps its folders
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.startswith(f"{doctor.TENSORFLOW_TPU} None\n")
    assert "The TPU 'local' cannot be used: libtpu found no TPU on this host." in done.stdout
