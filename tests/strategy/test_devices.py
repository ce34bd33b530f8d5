"""Is every device spec read or refused, and is what is on the host found?"""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from tfdist.strategy.devices import (
    FORMS,
    KINDS,
    DeviceSpec,
    TpuSight,
    count_tpu_chips,
    find_tpu,
    has_own_gpus,
    is_runtime_started,
    parse_device,
    take_inventory,
)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("auto", DeviceSpec("auto")),
        (" AUTO\n", DeviceSpec("auto")),
        ("multi_worker", DeviceSpec("multi_worker")),
        ("cpu", DeviceSpec("cpu", count=1)),
        ("CPU", DeviceSpec("cpu", count=1)),
        ("1xcpu", DeviceSpec("cpu", count=1)),
        ("4xcpu", DeviceSpec("cpu", count=4)),
        ("16XCPU", DeviceSpec("cpu", count=16)),
        ("gpu", DeviceSpec("gpu")),
        ("1xgpu", DeviceSpec("gpu", count=1)),
        ("2xGPU", DeviceSpec("gpu", count=2)),
        ("gpu:1", DeviceSpec("gpu", count=1, indices=(1,))),
        ("GPU:3,0", DeviceSpec("gpu", count=2, indices=(3, 0))),
        ("tpu", DeviceSpec("tpu")),
        ("tpu:local", DeviceSpec("tpu", tpu="local")),
        ("tpu:LOCAL", DeviceSpec("tpu", tpu="local")),
        ("TPU:My-tpu_1", DeviceSpec("tpu", tpu="My-tpu_1")),
        ("tpu:grpc://10.0.0.2:8470", DeviceSpec("tpu", tpu="grpc://10.0.0.2:8470")),
        ("tpu:grpc://[fe80::1]:1", DeviceSpec("tpu", tpu="grpc://[fe80::1]:1")),
    ],
)
def test_spec_is_read(text, spec):
    assert parse_device(text) == spec


@pytest.mark.parametrize(
    ("device", "problem"),
    [
        ("banana", "is not a device"),
        ("", "is not a device"),
        ("cpu:0", "is not a device"),
        ("/gpu:0", "is not a device"),
        ("4 x cpu", "is not a device"),
        ("-1xgpu", "is not a device"),
        ("1.5xcpu", "is not a device"),
        ("\N{FULLWIDTH DIGIT TWO}xcpu", "is not a device"),
        ("0xcpu", "asks for 0 devices"),
        ("00xgpu", "asks for 00 devices"),
        ("9999999999xcpu", "asks for 9999999999 devices"),
        ("gpu:", "is not a device"),
        ("gpu:0,", "is not a device"),
        ("gpu:-1", "is not a device"),
        ("gpu:a", "is not a device"),
        ("gpu:0,0", "names a GPU twice"),
        ("gpu:1,01", "names a GPU twice"),
        ("gpu:" + "1," * 600 + "0", "names too many GPUs"),
        ("2xgpu:0", "is not a device"),
        ("2xtpu", "counts TPUs"),
        ("tpu:", "neither a TPU's name nor its address"),
        ("tpu:0", "neither a TPU's name nor its address"),
        ("tpu:grpc://host", "neither a TPU's name nor its address"),
        ("tpu:grpc://:8470", "neither a TPU's name nor its address"),
        ("tpu:grpc://host:0", "a port that is not between 1 and 65535"),
        ("tpu:grpc://host:99999", "a port that is not between 1 and 65535"),
        ("tpu:10.0.0.2:8470", "neither a TPU's name nor its address"),
        ("tpu:a b", "neither a TPU's name nor its address"),
        ("multi_worker:2", "is not a device"),
        (None, "is not a text"),
        (3, "is not a text"),
        (b"cpu", "is not a text"),
        (["cpu"], "is not a text"),
    ],
)
def test_spec_is_refused(device, problem):
    with pytest.raises(ValueError, match="device=") as caught:
        parse_device(device)
    message = str(caught.value)
    assert problem in message
    assert FORMS in message
    assert message.count("\n") == 0
    assert len(message) < 400


_COUNTS = st.integers(1, 999_999_999)
_SPECS = st.one_of(
    st.sampled_from([DeviceSpec(kind) for kind in KINDS if kind != "cpu"]),
    _COUNTS.map(lambda count: DeviceSpec("cpu", count=count)),
    _COUNTS.map(lambda count: DeviceSpec("gpu", count=count)),
    st.lists(st.integers(0, 99), min_size=1, max_size=8, unique=True).map(
        lambda indices: DeviceSpec("gpu", count=len(indices), indices=tuple(indices))
    ),
    st.from_regex(r"[a-z]([a-z0-9-]{0,20}[a-z0-9])?", fullmatch=True).map(
        lambda name: DeviceSpec("tpu", tpu=name)
    ),
    st.integers(1, 65535).map(lambda port: DeviceSpec("tpu", tpu=f"grpc://host:{port}")),
)


@hypothesis.given(_SPECS, st.booleans())
def test_spec_is_written_as_it_is_read(spec, is_upper):
    text = str(spec)
    assert parse_device(text) == spec
    if is_upper and not spec.tpu:
        assert parse_device(text.upper()) == spec


@hypothesis.given(st.one_of(st.text(max_size=30), st.from_regex(r"[0-9]*x?[cgt]pu[:0-9,]*")))
def test_any_text_is_read_or_refused(text):
    try:
        spec = parse_device(text)
    except ValueError as error:
        assert FORMS in str(error)
        assert f"device={text!r}" in str(error) or len(repr(text)) > 80
    else:
        assert spec.kind in KINDS
        assert parse_device(str(spec)) == spec


@pytest.mark.parametrize(
    "text",
    [
        "1" * 10**6 + "xcpu",
        "1" * 10**6 + "xtpu",
        "gpu:" + "1," * 10**6,
        "gpu:0" + ",1" * 10**6,
        "tpu:" + "a-" * 10**6,
        "tpu:grpc://" * 10**5,
    ],
)
def test_long_texts_are_refused_at_once(text):
    began = time.monotonic()
    with pytest.raises(ValueError, match="^device=") as caught:
        parse_device(text)
    assert time.monotonic() - began < 5
    assert len(str(caught.value)) < 400


def test_spec_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse_device("cpu").kind = "gpu"


# ------------------------------------------------------------------------------------------ TPUs


def _make_host(folder: pathlib.Path, files: dict[str, str]) -> dict[str, pathlib.Path]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return {"dev": folder / "dev", "pci": folder / "pci"}


_VFIO = {"dev/vfio/vfio": "", "dev/vfio/0": "", "dev/vfio/1": ""}
_ACCEL = {"dev/accel0": "", "dev/accel1": "", "dev/accel2": "", "dev/accel3": ""}


@pytest.mark.parametrize(
    ("files", "num_chips"),
    [
        ({}, 0),
        (_ACCEL, 4),
        ({"dev/accel/accel0": ""}, 0),  # another maker's accelerator
        (_VFIO | {"pci/0000:00:04.0/vendor": "0x1ae0\n"}, 2),
        (_VFIO | {"pci/0000:00:04.0/vendor": "0x10de\n"}, 0),  # a GPU that is passed through
        (_VFIO, 0),
        ({"dev/vfio/vfio": "", "pci/0000:00:04.0/vendor": "0x1ae0\n"}, 0),  # a network card
    ],
)
def test_tpu_chips_are_counted(tmp_path, files, num_chips):
    assert count_tpu_chips(**_make_host(tmp_path, files)) == num_chips


@pytest.mark.parametrize(
    ("environ", "files", "address", "evidence", "num_hosts"),
    [
        ({"TPU_NAME": "local"}, {}, "local", "TPU_NAME='local'", 1),
        ({"TPU_NAME": "pod"}, _ACCEL, "pod", "TPU_NAME='pod'", 1),
        (
            {"KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS": "10.0.0.2:8470"},
            {},
            "grpc://10.0.0.2:8470",
            "KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS='10.0.0.2:8470'",
            1,
        ),
        (
            {"TPU_CONFIG": '{"tpu_node_name": "node"}'},
            {},
            "node",
            'TPU_CONFIG=\'{"tpu_node_name": "node"}\'',
            1,
        ),
        ({"TPU_CONFIG": "[]"}, _ACCEL, "local", "4 TPU chips in DEV", 1),
        ({"TPU_CONFIG": "{"}, _ACCEL, "local", "4 TPU chips in DEV", 1),
        ({"COLAB_TPU_ADDR": "h:1"}, {}, "grpc://h:1", "COLAB_TPU_ADDR='h:1'", 1),
        ({}, {"dev/accel0": ""}, "local", "1 TPU chip in DEV", 1),
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, _ACCEL, "local", "4 TPU chips in DEV", 1),
        ({"TPU_WORKER_HOSTNAMES": "a,b"}, _ACCEL, "local", "4 TPU chips in DEV", 2),
        ({"ISTPUVM": "1"}, {}, "local", "ISTPUVM='1'", 1),
        ({"TPU_PROCESS_ADDRESSES": "local"}, {}, "local", "TPU_PROCESS_ADDRESSES='local'", 1),
    ],
)
def test_tpu_is_found(tmp_path, environ, files, address, evidence, num_hosts):
    host = _make_host(tmp_path, files)
    evidence = evidence.replace("DEV", str(host["dev"]))
    assert find_tpu(environ, **host) == TpuSight(address, evidence, num_hosts=num_hosts)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"TPU_NAME": ""},
        {"ISTPUVM": "0"},
        {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"},
    ],
)
def test_no_tpu_is_found(tmp_path, environ):
    assert find_tpu(environ, **_make_host(tmp_path, {})) is None


# ------------------------------------------------------------------------------------- inventory


@pytest.mark.parametrize(
    ("environ", "own"),
    [
        ({}, False),
        ({"CUDA_VISIBLE_DEVICES": "0,1"}, False),
        ({"SLURM_GPUS_PER_TASK": "2"}, False),
        ({"SLURM_GPUS_PER_TASK": "2", "CUDA_VISIBLE_DEVICES": "2,3"}, True),
        ({"RAY_RAYLET_PID": "17", "CUDA_VISIBLE_DEVICES": "3"}, True),
    ],
)
def test_gpus_of_a_scheduler(environ, own):
    assert has_own_gpus(environ) is own


def test_inventory_of_this_host(logical_cpus):
    import tensorflow as tf

    inventory = take_inventory({"TPU_NAME": "my-tpu", "CUDA_VISIBLE_DEVICES": ""})
    assert inventory.num_cpus == logical_cpus
    assert inventory.num_gpus == len(tf.config.list_physical_devices("GPU"))
    assert inventory.tpu == TpuSight("my-tpu", "TPU_NAME='my-tpu'")
    assert inventory.tensorflow == tf.__version__
    assert inventory.visible_gpus == ""
    assert inventory.can_drive_gpus is tf.test.is_built_with_gpu_support()
    assert take_inventory({}).tpu is None


@pytest.mark.slow
def test_inventory_starts_nothing():
    code = """
import tensorflow as tf
from tfdist.strategy.devices import is_runtime_started, take_inventory
tf.config.threading.set_inter_op_parallelism_threads(3)
first, second = take_inventory({}), take_inventory({})
assert first == second and not first.is_started and first.num_cpus == 1
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
assert take_inventory({}).num_cpus == 2
assert tf.config.threading.get_inter_op_parallelism_threads() == 3
assert not is_runtime_started()
tf.constant(1)
assert is_runtime_started()
assert take_inventory({}).is_started and take_inventory({}).num_cpus == 2
"""
    root = pathlib.Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_runtime_is_started_by_an_operation(logical_cpus):
    import tensorflow as tf

    tf.constant(1)
    assert is_runtime_started()
