"""Is a TPU brought up in the right steps, and is every failure one sentence?  No TPU is needed."""

from __future__ import annotations

import contextlib
import dataclasses
import socket
import time
import urllib.error

import pytest
import tensorflow as tf

from tfdist.compat import tf_internals
from tfdist.strategy.tpu import TpuCalls, start_tpu, tensorflow_calls


class StandInResolver:
    """Answers as a TPUClusterResolver does, for a TPU that is not there."""

    def __init__(self, tpu: str):
        self.tpu = tpu


@pytest.fixture
def steps() -> list[str]:
    return []


@pytest.fixture
def calls(steps) -> TpuCalls:
    def resolve(address):
        steps.append(f"resolve {address}")
        return StandInResolver(address)

    def make_strategy(resolver):
        steps.append(f"strategy {resolver.tpu}")
        return tf.distribute.OneDeviceStrategy("/cpu:0")

    def is_reachable(target):
        steps.append(f"reach {target}")
        return True

    return TpuCalls(
        resolve=resolve,
        connect=lambda resolver: steps.append(f"connect {resolver.tpu}"),
        initialize=lambda resolver: steps.append(f"initialize {resolver.tpu}"),
        make_strategy=make_strategy,
        is_reachable=is_reachable,
        is_initialized=lambda address: address == "already",
    )


@pytest.mark.parametrize(
    ("address", "environ", "expected"),
    [
        ("local", {}, ["resolve", "initialize", "strategy"]),
        (
            "mine",
            {},
            ["reach metadata.google.internal:80", "resolve", "connect", "initialize", "strategy"],
        ),
        (
            "mine",
            {"GCE_METADATA_HOST": "h:81", "GCE_METADATA_IP": "other"},
            ["reach h:81", "resolve", "connect", "initialize", "strategy"],
        ),
        (
            "mine",
            {"GCE_METADATA_IP": "10.0.0.1"},
            ["reach 10.0.0.1:80", "resolve", "connect", "initialize", "strategy"],
        ),
        (
            "grpc://h:1,grpc://i",
            {},
            ["reach h:1", "reach i:8470", "resolve", "connect", "initialize", "strategy"],
        ),
        ("already", {}, ["reach metadata.google.internal:80", "resolve", "connect", "strategy"]),
    ],
)
def test_steps(calls, steps, address, environ, expected):
    strategy = start_tpu(address, calls=calls, environ=environ)
    assert isinstance(strategy, tf.distribute.Strategy)
    assert steps == [step if " " in step else f"{step} {address}" for step in expected]


_NO_KERNEL = tf.errors.NotFoundError(
    None, None, "TPUs not found in the cluster. No OpKernel was registered to support Op 'C'"
)


@pytest.mark.parametrize(
    ("step", "error", "words"),
    [
        ("initialize", _NO_KERNEL, ["no TPU support", "tfdist[tpu]"]),
        (
            "initialize",
            tf.errors.InternalError(None, None, "RET_CHECK failure (f.cc:1) tpu_platform != null"),
            ["libtpu found no TPU", "TPU runtime"],
        ),
        (
            "initialize",
            tf.errors.AbortedError(None, None, "The TPU is already in use by process with pid 9"),
            ["another process holds it", "End that process"],
        ),
        (
            "make_strategy",
            IndexError("index 0 is out of bounds for axis 0 with size 0"),
            ["no cores"],
        ),
        (
            "resolve",
            urllib.error.URLError("[Errno -2] Name or service not known"),
            ["cannot be looked up", "tpu:local"],
        ),
        (
            "resolve",
            ValueError("Could not lookup TPU metadata from name 'mine'"),
            ["no TPU of this"],
        ),
        ("connect", RuntimeError("something\nelse"), ["RuntimeError: something else.", "restart"]),
        ("connect", KeyError(), ["KeyError.", "no other process"]),
    ],
)
def test_failure_is_one_sentence(calls, step, error, words):
    def fail(_):
        raise error

    with pytest.raises(RuntimeError, match="The TPU 'mine' cannot be used: ") as caught:
        start_tpu("mine", calls=dataclasses.replace(calls, **{step: fail}), environ={})
    message = str(caught.value)
    assert [word for word in words if word not in message] == []
    assert "\n" not in message
    assert message.endswith(".")
    assert caught.value.__cause__ is error


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("mine", ["inside Google Cloud only", "metadata.google.internal:80", "tpu:local"]),
        ("grpc://h:1", ["nothing answers at h:1", "firewall", "tpu:local"]),
    ],
)
def test_nothing_is_tried_where_nobody_answers(calls, steps, address, words):
    calls = dataclasses.replace(calls, is_reachable=lambda target: False)
    with pytest.raises(RuntimeError, match="cannot be used") as caught:
        start_tpu(address, calls=calls, environ={})
    assert [word for word in words if word not in str(caught.value)] == []
    assert steps == []


# ------------------------------------------------------- TensorFlow's own calls, without any TPU


@pytest.fixture
def has_no_tpu(logical_cpus):
    if tf.config.list_logical_devices("TPU"):
        pytest.skip("there is a TPU")


@pytest.fixture
def unused_port():
    with contextlib.closing(socket.socket()) as holder:  # bound, and not listening
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


def test_local_tpu_that_is_not_there(has_no_tpu):
    with pytest.raises(RuntimeError, match="The TPU 'local' cannot be used: ") as caught:
        start_tpu("local")
    assert any(part in str(caught.value) for part in ("no TPU support", "libtpu found no TPU"))


def test_local_tpu_without_cores(has_no_tpu):
    calls = dataclasses.replace(tensorflow_calls(), initialize=lambda resolver: None)
    with pytest.raises(RuntimeError, match="'local' cannot be used: it has no cores"):
        start_tpu("local", calls=calls)


@pytest.mark.parametrize("address", ["grpc://127.0.0.1:{}", "some-name"])
def test_remote_tpu_that_is_not_there(has_no_tpu, unused_port, address):
    environ = {"GCE_METADATA_HOST": f"127.0.0.1:{unused_port}"}
    start = time.monotonic()
    with pytest.raises(RuntimeError, match=f"127.0.0.1:{unused_port}"):
        start_tpu(address.format(unused_port), environ=environ)
    assert time.monotonic() - start < 10.0


def test_initialized_tpus_are_asked_for(has_no_tpu):
    assert not tensorflow_calls().is_initialized("local")


def test_kernels_are_known():
    assert tf_internals.has_kernel("MatMul")
    assert not tf_internals.has_kernel("NoSuchOperation")
