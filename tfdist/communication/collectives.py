"""What can a replica ask the others for?  Sums and gathers, however they are carried out.

`Collectives` is all that a step knows of the other replicas. There are those of a single replica,
which has everything, those of XLA, inside one program that all replicas run, and TensorFlow's own.
`for_replica` makes them from the current replica context.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.communication.share import Share, is_tpu
from tfdist.compat import tf_internals
from tfdist.compat.notes import note_of, set_note

# XLA's all-reduce, as an operation of TensorFlow, takes no 64-bit types.
_SUMMED_AS = {tf.float64: tf.float32, tf.int64: tf.int32, tf.bool: tf.int32}


@dataclasses.dataclass(frozen=True)
class Collectives:
    """What one replica can ask all replicas of all workers for.

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
    """Returns the collectives of a single replica, which has everything."""
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
        replica_id: Number of the replica, if a strategy distributes the rows: by its own numbers,
            which on a TPU may differ from XLA's.
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
    """Returns `total` rows: zeros, except for `rows`, which begin at number `offset`."""
    rest = [[0, 0]] * (rows.shape.rank - 1)
    # Rolled, since XLA can only pad by a constant, and the offset is not constant.
    return tf.roll(tf.pad(rows, [[0, total - tf.shape(rows)[0]], *rest]), offset, axis=0)


def xla_operations() -> Any:
    """Returns TensorFlow's module of XLA's operations, which it documents but does not export."""
    name = "tensorflow.compiler.tf2xla.ops.gen_xla_ops"
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"TensorFlow {tf.__version__} has no module {name!r}, which a program for several TPU"
            " cores needs. Install TensorFlow 2.18 to 2.22."
        ) from error


def for_replica() -> Collectives:
    """Returns the collectives of the replica whose function is being run or traced."""
    context = tf.distribute.get_replica_context()
    if context is None:
        raise RuntimeError(
            "There is no replica here: this was called in the strategy's scope. "
            "Call it inside the function that `strategy.run` runs."
        )
    if context.num_replicas_in_sync == 1:
        return alone()
    if is_tpu(context.strategy):
        return xla_collectives(context.num_replicas_in_sync, context.replica_id_in_sync_group)

    def plain_sum(value: Any) -> Any:
        return context.all_reduce(tf.distribute.ReduceOp.SUM, tf.stop_gradient(value))

    def linked_sum(value: Any) -> Any:
        # The gradient of an all-reduce is another one, which TensorFlow's has as well. But where it
        # is traced it looks for variables behind the values of all other replicas, which takes
        # longer the more operations there are already. Behind a sum without a gradient are none.
        return linked(value, plain_sum(value))

    @tf.custom_gradient
    def linked(_: Any, total: Any) -> Any:
        return tf.identity(total), lambda upstream: (linked_sum(upstream), None)

    return Collectives(
        num_replicas=context.num_replicas_in_sync,
        replica_id=context.replica_id_in_sync_group,
        sum=plain_sum,
        linked_sum=linked_sum,
        gather=lambda rows, offset, total: _all_rows(context, tf.stop_gradient(rows)),
    )


def _all_rows(context: Any, rows: Any) -> Any:
    note_changing_shapes(context.strategy)
    return context.all_gather(rows, axis=0)


def note_changing_shapes(strategy: tf.distribute.Strategy) -> None:
    """Records, while a step is traced, that it has collectives whose shape changes."""
    if not tf_internals.reduces_on_one_device(strategy):
        set_note(strategy, "changes_shapes", True)


def changes_shapes(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether a step that was traced has collectives whose shape follows the batch.

    Within one call of a traced function, TensorFlow's collectives keep their first shape ("Shape
    mismatch in the collective instance"), so such steps run one per call.
    """
    return bool(note_of(strategy, "changes_shapes"))


def gathered(
    strategy: tf.distribute.Strategy, row: Callable[[Any], tf.Tensor]
) -> tf.Tensor:
    """Returns the rows of all replicas, stacked, in cross-replica context.

    Args:
        strategy: The strategy; all its workers call it together.
        row: Takes the replica's context; returns its tensor, of the same shape on all replicas.

    Returns:
        The rows, of shape `(num_replicas, ...)`, as this worker's first replica received them.
    """

    def on_replica() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        return context.all_gather(row(context)[tf.newaxis], axis=0)

    rows = strategy.run(tf.autograph.experimental.do_not_convert(on_replica))
    return strategy.experimental_local_results(rows)[0]


def sum_over_workers(
    strategy: tf.distribute.Strategy, share: Share, values: tf.Tensor
) -> tf.Tensor:
    """Returns the sum of the workers' values, in cross-replica context.

    Args:
        strategy: The strategy; all its workers call it together.
        share: Which replicas this worker has.
        values: This worker's values; they count once, however many replicas it has.
    """

    def on_replica() -> tf.Tensor:
        context = tf.distribute.get_replica_context()
        is_first = tf.equal(context.replica_id_in_sync_group % share.local_replicas, 0)
        own = tf.where(is_first, values, tf.zeros_like(values))
        return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

    total = strategy.run(tf.autograph.experimental.do_not_convert(on_replica))
    return strategy.experimental_local_results(total)[0]
