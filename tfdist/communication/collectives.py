"""What can a replica ask of the others?  To sum and to gather, whoever carries it.

`Collectives` is what a step knows of the other replicas. Here are those of a replica that has
everything, and those of XLA, inside of one program that all replicas run; `reduction.for_replica`
adds TensorFlow's own.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

# XLA's all-reduce, as an operation of TensorFlow, takes no 64 bits.
_SUMMED_AS = {tf.float64: tf.float32, tf.int64: tf.int32, tf.bool: tf.int32}


@dataclasses.dataclass(frozen=True)
class Collectives:
    """What one replica can ask of all replicas of all workers.

    Attributes:
        num_replicas: Replicas of all workers together.
        replica_id: Number of this replica among them; int or int32 scalar tensor.
        sum: Tensor to the sum of all replicas' tensors, of the same shape and dtype. It has no
            gradient.
        linked_sum: As `sum`, with a gradient: the sum of all replicas' gradients.
        gather: `gather(rows, offset, total)` puts this replica's rows, which begin at number
            `offset`, among the `total` rows of all. It has no gradient.
        is_one_program: Whether all replicas run one program, which has the update in it.
    """

    num_replicas: int
    replica_id: Any
    sum: Callable[[Any], Any]
    linked_sum: Callable[[Any], Any]
    gather: Callable[[Any, Any, Any], Any]
    is_one_program: bool = False


def alone() -> Collectives:
    """Returns the collectives of a replica that has everything."""
    return Collectives(
        num_replicas=1,
        replica_id=0,
        sum=lambda value: value,
        linked_sum=lambda value: value,
        gather=lambda rows, offset, total: rows,
    )


def xla_collectives(num_replicas: int, replica_id: Any = None) -> Collectives:
    """Returns the collectives of a replica in a program that XLA compiles for all of them.

    Args:
        num_replicas: Replicas that run the program.
        replica_id: Number of the replica, where a strategy deals out the rows: by its own numbers,
            which on a TPU need not be XLA's.
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
        replica_id=operations.xla_replica_id() if replica_id is None else replica_id,
        sum=lambda value: linked_sum(tf.stop_gradient(tf.convert_to_tensor(value))),
        linked_sum=lambda value: linked_sum(tf.convert_to_tensor(value)),
        gather=lambda rows, offset, total: linked_sum(
            padded(tf.stop_gradient(rows), offset, total)
        ),
        is_one_program=True,
    )


def padded(rows: tf.Tensor, offset: Any, total: Any) -> tf.Tensor:
    """Returns `total` rows, zeros but for `rows`, which begin at number `offset`."""
    rest = [[0, 0]] * (rows.shape.rank - 1)
    # Rolled, since XLA pads by what is known while it compiles, and an offset is not.
    return tf.roll(tf.pad(rows, [[0, total - tf.shape(rows)[0]], *rest]), offset, axis=0)


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
