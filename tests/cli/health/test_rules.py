"""Is each thing that is known to break found where it is planted, and nowhere else?

What is cheap is planted for real (packages that pip has left, variables, limits), all else in the
facts of a host that has nothing wrong.
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys

import launching
import pytest
from planting import plant_packages

from tfdist.cli.health import facts, rule, rules
from tfdist.cli.health.facts import Facts

_WELL = Facts(
    python=("3.11.7", "python"), machine="x86_64",
    packages={"tensorflow-cpu": "2.20.0", "keras": "3.13.2"},
    cores=(8, 8.0), memory_bytes=(16 * 10**9, 12 * 10**9), shm_bytes=8 * 10**9,
    disk=("/tmp", 50 * 10**9), cpu_flags=("sse2", "avx", "avx2", "avx512_vnni"),
    limits={"open files": 65536, "processes": -1}, clock=("2026-12-01T00:00:00+00:00", 0.0),
)  # fmt: skip
_TPU = {"tensorflow-tpu": "2.20.0"}
_AVX2 = ("sse2", "avx", "avx2")


def _with(**changes):
    packages = {**_WELL.packages, **changes.pop("packages", {})}
    without = changes.pop("without", ())
    packages = {name: packages[name] for name in packages if name not in without}
    return dataclasses.replace(_WELL, packages=packages, **changes)


# Each rule: where it applies, and a neighbour where it must not.
_PLANTED = {
    "no-tensorflow": (_with(without=["tensorflow-cpu"]), _WELL),
    "no-keras": (_with(without=["keras"]), _WELL),
    "python": (_with(python=("3.14.0", "python")), _with(python=("3.13.9", "python"))),
    "tensorflow": (
        _with(packages={"tensorflow-cpu": "2.17.1"}),
        _with(packages={"tensorflow-cpu": "2.22.0rc1"}),
    ),
    "keras": (_with(packages={"keras": "3.17.0"}), _with(packages={"keras": "3.16.1"})),
    "two-tensorflows": (_with(packages={"tensorflow": "2.20.0"}), _WELL),
    "tensorflow-text": (
        _with(packages={"tensorflow": "2.20.0", "tensorflow-text": "2.20.0"}),
        _with(packages={"tensorflow-text": "2.20.0"}),
    ),
    "keras-hub": (
        _with(packages={"keras-hub": "0.32.0", "regex": "2026.1"}),
        _with(packages={"keras-hub": "0.32.0", "regex": "2026.1", "tokenizers": "0.23.3"}),
    ),
    "libtpu": (
        _with(packages=_TPU | {"libtpu": "0.0.37"}, without=["tensorflow-cpu"]),
        _with(packages=_TPU | {"libtpu": "0.0.31"}, without=["tensorflow-cpu"]),
    ),
    "legacy-keras": (
        _with(environ={"TF_USE_LEGACY_KERAS": "1"}), _with(environ={"TF_USE_LEGACY_KERAS": "0"}),
    ),
    "keras-backend": (
        _with(environ={"KERAS_BACKEND": "jax"}), _with(environ={"KERAS_BACKEND": "tensorflow"}),
    ),
    "keras-json": (
        _with(keras_json="torch"),
        _with(keras_json="torch", environ={"KERAS_BACKEND": "tensorflow"}),
    ),
    "rank-4-matmul": (
        _with(packages={"tensorflow-cpu": "2.21.0"}),
        _with(packages={"tensorflow-cpu": "2.21.0"}, environ={"TF_ENABLE_ONEDNN_OPTS": "0"}),
    ),
    "onednn-off": (
        _with(cpu_flags=_AVX2), _with(cpu_flags=_AVX2, environ={"TF_ENABLE_ONEDNN_OPTS": "1"}),
    ),
    "ray-token": (
        _with(packages={"ray": "2.56.1"}, environ={"RAY_AUTH_MODE": "token"}),
        _with(packages={"ray": "2.56.1"}, environ={"RAY_AUTH_MODE": "token"}, has_ray_token=True),
    ),
    "proxy": (
        _with(environ={"http_proxy": "http://proxy:3128"}),
        _with(environ={"http_proxy": "http://proxy:3128", "no_proxy": "127.0.0.1,localhost"}),
    ),
    "hash-seed": (
        _with(environ={"PYTHONHASHSEED": "random"}), _with(environ={"PYTHONHASHSEED": "0"}),
    ),
    "open-files": (_with(limits={"open files": 256}), _with(limits={"open files": 1024})),
    "processes": (_with(limits={"processes": 100}), _with(limits={"processes": -1})),
    "shared-memory": (
        _with(shm_bytes=64 * 2**20, packages={"ray": "2.60.0"}), _with(shm_bytes=64 * 2**20),
    ),
    "disk": (_with(disk=("/tmp", 10**8)), _WELL),
    "memory": (_with(memory_bytes=(2 * 10**9, 5 * 10**8)), _WELL),
    "cpu-quota": (_with(cores=(64, 4.0)), _with(cores=(64, 64.0))),
    "idle-gpu": (
        _with(nvidia_files=1),
        _with(nvidia_files=1, packages={"tensorflow": "2.20.0", "nvidia-cudnn-cu12": "9.3"},
              without=["tensorflow-cpu"]),
    ),
    "no-avx": (_with(cpu_flags=("sse2",)), _with(cpu_flags=())),
    "clock": (_with(clock=("1970-01-01T00:00:00+00:00", 1e9)), _WELL),
}  # fmt: skip


def _names(found):
    return [finding.rule.name for finding in found]


def test_nothing_is_found_where_nothing_is_wrong():
    assert rules.find(_WELL) == []


def test_each_rule_is_planted():
    assert list(_PLANTED) == [rule.name for rule in rules.RULES]


@pytest.mark.parametrize("name", list(_PLANTED))
def test_it_is_found_where_it_is_planted_and_not_beside(name):
    planted, beside = _PLANTED[name]
    assert name in _names(rules.find(planted))
    assert name not in _names(rules.find(beside))
    [found] = [finding for finding in rules.find(planted) if finding.rule.name == name]
    shown = str(found)
    assert found.evidence in shown
    assert f"do: {found.rule.cure}" in shown
    assert found.rule.severity in ("stops", "breaks", "slows")
    assert not found.rule.issue or found.rule.issue.startswith("https://")


def test_the_worst_comes_first():
    both = _with(cores=(64, 4.0), environ={"KERAS_BACKEND": "jax", "PYTHONHASHSEED": "random"})
    assert _names(rules.find(both)) == ["keras-backend", "hash-seed", "cpu-quota"]


def test_packages_on_the_path_are_found(tmp_path):
    path = [plant_packages(
        tmp_path, tensorflow="2.21.0", tensorflow_cpu="2.21.0", tensorflow_text="2.21.0",
        keras="3.15.1",
    )]  # fmt: skip
    found = dataclasses.replace(_WELL, packages=facts.versions(path))
    assert "tensorflow-text" in _names(rules.find(found))


def test_variables_and_limits_of_a_process_are_found():
    code = (
        "from tfdist.cli.health import facts, rule, rules;"
        "print([found.rule.name for found in rules.find(facts.collect())])"
    )
    environ = {
        name: value for name, value in launching.environ_with().items()
        if name not in ("no_proxy", "no_grpc_proxy")
    } | {
        "KERAS_BACKEND": "jax", "TF_USE_LEGACY_KERAS": "True", "PYTHONHASHSEED": "random",
        "http_proxy": "http://127.0.0.1:9",
    }  # fmt: skip
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n 256; exec {sys.executable} -c "{code}"'],
        env={**os.environ, **environ}, capture_output=True, text=True, timeout=60, check=True,
    )
    for name in ("keras-backend", "legacy-keras", "hash-seed", "proxy", "open-files"):
        assert repr(name) in done.stdout


def test_ranges_can_be_read():
    assert str(rule.Versions("tensorflow", (2, 21), (2, 22))) == "tensorflow>=2.21,<2.22"
    assert str(rule.Versions("ray", (2, 52))) == "ray>=2.52"
