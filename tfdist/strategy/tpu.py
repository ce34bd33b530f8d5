"""How is a TPU brought up?  An address -> a TPUStrategy, or one sentence that says what is missing.

The calls of TensorFlow that need a TPU are one value, TpuCalls, so that the order of the steps and
every failure can be tried without one.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from tfdist.cluster.ports import is_reachable
from tfdist.compat import tf_internals

_REACH_SECS = 5.0  # for one connection to a TPU, or to the service that knows TPUs by name
_METADATA_HOSTS = ("GCE_METADATA_HOST", "GCE_METADATA_IP")


@dataclasses.dataclass(frozen=True)
class TpuCalls:
    """The steps of bringing up a TPU."""

    resolve: Callable[[str], Any]  # address -> resolver
    connect: Callable[[Any], None]  # makes the devices of a TPU on other hosts known
    initialize: Callable[[Any], Any]  # resets the chips: variables on them are lost
    make_strategy: Callable[[Any], tf.distribute.Strategy]
    is_reachable: Callable[[str], bool]  # "host:port" -> whether something listens there
    is_initialized: Callable[[str], bool]  # address -> whether this process has initialized it


def tensorflow_calls() -> TpuCalls:
    """Returns TensorFlow's own calls."""
    return TpuCalls(
        resolve=lambda address: tf.distribute.cluster_resolver.TPUClusterResolver(tpu=address),
        connect=tf.config.experimental_connect_to_cluster,
        initialize=tf.tpu.experimental.initialize_tpu_system,
        make_strategy=tf.distribute.TPUStrategy,
        is_reachable=lambda address: is_reachable(address, timeout_secs=_REACH_SECS),
        is_initialized=lambda address: address in tf_internals.initialized_tpus(),
    )


def start_tpu(
    address: str, *, calls: TpuCalls | None = None, environ: Mapping[str, str] | None = None
) -> tf.distribute.Strategy:
    """Connects to a TPU, initializes it and makes its strategy.

    Args:
        address: "local", a TPU's name, or "grpc://host:port", several of them with commas between.
        calls: The calls to use; by default TensorFlow's own.
        environ: Variables by name; those of this process by default.

    Raises:
        RuntimeError: A step failed; the message says what is missing and what to do.
    """
    calls = tensorflow_calls() if calls is None else calls
    _refuse_unreachable(address, calls, os.environ if environ is None else environ)
    try:
        resolver = calls.resolve(address)
        if address != "local":
            calls.connect(resolver)
        if not calls.is_initialized(address):
            calls.initialize(resolver)
        return calls.make_strategy(resolver)
    except Exception as error:  # any error: the user gets one sentence, and this as its cause
        raise RuntimeError(f"The TPU {address!r} cannot be used: {_explain(error)}") from error


def _refuse_unreachable(address: str, calls: TpuCalls, environ: Mapping[str, str]) -> None:
    """Raises an error for unreachable hosts, for which TensorFlow would wait for ever."""
    if address == "local":
        return
    if address.startswith("grpc://"):
        for endpoint in address.replace("grpc://", "").split(","):
            target = endpoint if ":" in endpoint else f"{endpoint}:8470"
            if not calls.is_reachable(target):
                raise RuntimeError(
                    f"The TPU {address!r} cannot be used: nothing answers at {target}. Check that"
                    " the TPU is running and that the address and the firewall let this host reach"
                    " it; on a TPU VM itself, use device='tpu:local'."
                )
        return
    host = next(filter(None, map(environ.get, _METADATA_HOSTS)), "metadata.google.internal")
    target = host if ":" in host else f"{host}:80"
    if not calls.is_reachable(target):
        raise RuntimeError(
            f"The TPU {address!r} cannot be used: a TPU is found by its name inside Google Cloud"
            f" only, and its metadata service ({target}) does not answer here. Use"
            " device='tpu:local' on a TPU VM, or 'tpu:grpc://HOST:PORT'."
        )


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    for fragment, sentence in _CAUSES:
        if fragment in text:
            return sentence
    shown = f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
    return f"{shown}. Check that it runs and that no other process holds it, and restart this one."


# What TensorFlow 2.18 to 2.21 and libtpu say, and what it means.
_CAUSES = (
    (
        "No OpKernel was registered",
        "this TensorFlow has no TPU support. Uninstall tensorflow and tensorflow-cpu,"
        " pip install 'tfdist[tpu]' and restart the process.",
    ),
    (
        "already in use",
        "another process holds it. End that process (or the other notebook) and try again.",
    ),
    (
        "RET_CHECK failure",
        "libtpu found no TPU on this host. Attach one (in a notebook: choose a TPU runtime), or use"
        " device='cpu'.",
    ),
    (
        "out of bounds for axis 0 with size 0",
        "it has no cores. Attach a TPU to this host (in a notebook: choose a TPU runtime), or use"
        " device='cpu'.",
    ),
    (
        "Could not lookup TPU metadata",
        "no TPU of this name is known in this project and zone. Check it with"
        " `gcloud compute tpus tpu-vm list`.",
    ),
    (
        "Name or service not known",
        "its name cannot be looked up, which needs Google Cloud's metadata service. Use"
        " device='tpu:local' on a TPU VM, or 'tpu:grpc://HOST:PORT'.",
    ),
)
