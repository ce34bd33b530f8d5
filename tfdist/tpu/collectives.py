"""How do replicas sum inside of one program that all of them run?  By XLA's own operations."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.reduction import Collectives, padded

# XLA's all-reduce, as an operation of TensorFlow, takes no 64 bits.
_SUMMED_AS = {tf.float64: tf.float32, tf.int64: tf.int32, tf.bool: tf.int32}


def xla_collectives(num_replicas: int) -> Collectives:
    """Returns the collectives of a replica in a program that XLA compiles for all of them.

    Args:
        num_replicas: Replicas that run the program.
    """
    operations = xla_operations()
    groups = np.arange(num_replicas, dtype=np.int32)[None]

    @tf.custom_gradient
    def linked_sum(value: Any) -> Any:
        summed = operations.xla_all_reduce(
            input=tf.cast(value, _SUMMED_AS.get(value.dtype, value.dtype)),
            group_assignment=groups,
            reduce_op="Add",
            mode="CrossReplica",
        )
        return tf.cast(summed, value.dtype), linked_sum

    return Collectives(
        num_replicas=num_replicas,
        replica_id=operations.xla_replica_id(),
        sum=lambda value: linked_sum(tf.stop_gradient(tf.convert_to_tensor(value))),
        linked_sum=lambda value: linked_sum(tf.convert_to_tensor(value)),
        gather=lambda rows, offset, total: linked_sum(
            padded(tf.stop_gradient(rows), offset, total)
        ),
    )


def xla_operations() -> Any:
    """Returns TensorFlow's module of XLA's operations, which it documents but does not export."""
    name = "tensorflow.compiler.tf2xla.ops.gen_xla_ops"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"TensorFlow {tf.__version__} has no module {name!r}, which a program for several TPU"
            " cores needs. Install TensorFlow 2.18 to 2.21."
        ) from error
