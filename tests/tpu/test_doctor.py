"""tests of tfdist/tpu/doctor.py"""

from __future__ import annotations

import configparser
import os
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from tfdist.tpu import doctor
from tfdist.tpu.doctor import Facts

_GOOD = {"tensorflow-tpu": "2.20.0", "libtpu": "0.0.31", "keras": "3.13.0"}


def _extra() -> str:
    setup = configparser.ConfigParser()
    setup.read(pathlib.Path(__file__).parents[2] / "setup.cfg")
    return setup["options.extras_require"]["tpu"]


def test_pins_are_those_of_the_extra() -> None:
    assert f"tensorflow-tpu=={doctor.TENSORFLOW_TPU}" in _extra()
    assert f'libtpu=={doctor.LIBTPU}; python_version >= "3.11"' in _extra()
    assert f'libtpu=={doctor.LIBTPU_FOR_OLD_PYTHON}; python_version < "3.11"' in _extra()


@pytest.mark.parametrize(
    ("environ", "has_chips", "image"),
    [
        ({"COLAB_RELEASE_TAG": "x"}, True, "colab"),
        ({"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, True, "kaggle"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, True, "gke"),
        ({"TPU_ACCELERATOR_TYPE": "v5litepod-4"}, False, "tpu_vm"),
        ({}, True, "tpu_vm"),
        ({"COLAB_RELEASE_TAG": ""}, False, "other"),
    ],
)
def test_image(environ: dict[str, str], has_chips: bool, image: str) -> None:
    assert doctor.image_of(environ, has_chips=has_chips) == image


@pytest.mark.parametrize(
    ("packages", "problem", "commands"),
    [
        (_GOOD, None, None),
        (
            {},
            "none is installed",
            ["pip install -q 'tensorflow-tpu==2.20.0' 'libtpu==0.0.31'"],
        ),
        (
            {"tensorflow-cpu": "2.19.0"},
            "tensorflow-cpu has no TPU support",
            [
                "pip uninstall -q -y tensorflow-cpu",
                "pip install -q 'tensorflow-tpu==2.20.0' 'libtpu==0.0.31'",
            ],
        ),
        (
            {**_GOOD, "tensorflow": "2.20.0"},
            "tensorflow and tensorflow-tpu are installed over each other",
            [
                "pip uninstall -q -y tensorflow",
                "pip install -q --force-reinstall --no-deps 'tensorflow-tpu==2.20.0'"
                " 'libtpu==0.0.31'",
            ],
        ),
        (
            {**_GOOD, "libtpu": "0.0.32.1"},
            "with libtpu 0.0.32.1 the import of tensorflow-tpu 2.20.0 ends the process",
            [
                "pip uninstall -q -y libtpu",
                "pip install -q --force-reinstall --no-deps 'tensorflow-tpu==2.20.0'"
                " 'libtpu==0.0.31'",
            ],
        ),
        (
            {"tensorflow-tpu": "2.20.0"},
            "tensorflow-tpu is installed without libtpu",
            [
                "pip install -q --force-reinstall --no-deps 'tensorflow-tpu==2.20.0'"
                " 'libtpu==0.0.31'"
            ],
        ),
    ],
)
def test_packages(packages: dict[str, str], problem: str | None, commands: Any) -> None:
    facts = Facts(python=(3, 12), packages=packages, num_chips=1)
    assert doctor.problem_of_packages(facts) == problem
    if commands is not None:
        assert doctor.pip_commands(facts) == commands
        assert [line.strip() for line in doctor.advice(facts)[1:]] == commands
    else:
        assert doctor.advice(facts) == [
            'All of it goes together: tfdist.get_strategy("tpu") should work.'
        ]


def test_old_python_gets_its_own_libtpu() -> None:
    facts = Facts(python=(3, 10))
    assert doctor.pip_commands(facts) == [
        "pip install -q 'tensorflow-tpu==2.20.0' 'libtpu==0.0.21'"
    ]


def test_absent_and_held() -> None:
    [line] = doctor.advice(Facts(image="kaggle", packages=_GOOD))
    assert line == "TPU: none is attached. Choose Settings > Accelerator > TPU."
    [line] = doctor.advice(Facts(num_chips=4, packages=_GOOD, holders=((7, "python x.py"),)))
    assert line.startswith("TPU: process 7 holds it")


def test_facts_of_a_made_up_host(tmp_path: pathlib.Path) -> None:
    dev, proc = tmp_path / "dev", tmp_path / "proc"
    dev.mkdir()
    for chip in ("accel0", "accel1"):
        (dev / chip).touch()
    for pid, target in (("12", dev / "accel0"), ("13", dev / "null"), ("14", None)):
        (proc / pid / "fd").mkdir(parents=True)
        (proc / pid / "cmdline").write_bytes(b"python\0train.py\0")
        if target:
            (proc / pid / "fd" / "3").symlink_to(target)
    facts = doctor.collect({}, dev=dev, pci=tmp_path, proc=proc)
    assert (facts.image, facts.num_chips) == ("tpu_vm", 2)
    assert facts.holders == ((12, "python train.py"),)
    assert "held by process 12: python train.py" in doctor.description(facts)
    facts = doctor.collect({"TPU_NAME": "mine"}, dev=tmp_path, pci=tmp_path, proc=tmp_path)
    assert "TPU_NAME='mine'" in doctor.description(facts)[1]
    assert facts.has_tpu


def test_it_needs_no_tensorflow() -> None:
    code = """
import sys
from tfdist.tpu import doctor
print("\\n".join(doctor.main_lines()))
assert not {"tensorflow", "keras", "numpy", "jax"} & set(sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(pathlib.Path(__file__).parents[2])},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("image: ")
