"""A real tf.distribute.TPUStrategy where there is no TPU: it traces programs, but cannot run them.

What TensorFlow asks of a TPU is answered by hand: how many cores there are, and which devices stand
for them: logical CPUs, so that variables live somewhere. All else is TensorFlow's own: variables,
contexts, `tpu.replicate` and the graph that it makes.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import tensorflow as tf

_TASK = "/job:localhost/replica:0/task:0/device"


class _Device:
    def __init__(self, name: str) -> None:
        self.name = name


class _Resolver(tf.distribute.cluster_resolver.ClusterResolver):
    tpu_hardware_feature = None
    environment = ""

    def __init__(self, num_cores: int) -> None:
        self._num_cores = num_cores

    def get_tpu_system_metadata(self) -> Any:
        metadata = importlib.import_module("tensorflow.python.tpu.tpu_system_metadata")
        return metadata.TPUSystemMetadata(
            num_cores=self._num_cores, num_hosts=1, num_of_cores_per_host=self._num_cores,
            topology=None,
            devices=tuple(_Device(f"{_TASK}:TPU:{core}") for core in range(self._num_cores)),
        )  # fmt: skip

    def cluster_spec(self) -> tf.train.ClusterSpec:
        return tf.train.ClusterSpec({})

    def master(self, *args: Any, **kwargs: Any) -> str:
        return ""


class _OnCpus(tf.tpu.experimental.DeviceAssignment):
    """Puts replica r on logical CPU r."""

    def tpu_device(self, replica: int = 0, logical_core: int = 0, job: Any = None) -> str:
        return f"{_TASK}:CPU:{replica}"

    def host_device(self, replica: int = 0, logical_core: int = 0, job: Any = None) -> str:
        return f"{_TASK}:CPU:0"


def strategy(num_replicas: int = 2) -> tf.distribute.TPUStrategy:
    """Returns a TPUStrategy of so many replicas; there have to be as many logical CPUs."""
    cores = np.array([[[0, 0, 0, core]] for core in range(num_replicas)], np.int32)
    topology = tf.tpu.experimental.Topology(
        mesh_shape=[1, 1, 1, num_replicas], device_coordinates=cores.swapaxes(0, 1)
    )
    return tf.distribute.TPUStrategy(
        _Resolver(num_replicas), experimental_device_assignment=_OnCpus(topology, cores)
    )
