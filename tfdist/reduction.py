"""How do gradients and counts travel between replicas? Once, summed, in packs.

`Collectives` is what a step knows of the others; `for_replica` makes it from the current replica
context. `sum_gradients` is the one reduction of a step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfdist import keras_compat

# Many small tensors cost a round trip each; packs of this size were the fastest on a gRPC ring.
BYTES_PER_PACK = 16 * 2**20


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
    """

    num_replicas: int
    replica_id: Any
    sum: Callable[[Any], Any]
    linked_sum: Callable[[Any], Any]
    gather: Callable[[Any, Any, Any], Any]


def alone() -> Collectives:
    """Returns the collectives of a replica that has everything."""
    return Collectives(
        num_replicas=1,
        replica_id=0,
        sum=lambda value: value,
        linked_sum=lambda value: value,
        gather=lambda rows, offset, total: rows,
    )


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

    def linked_sum(value: Any) -> Any:
        return context.all_reduce(tf.distribute.ReduceOp.SUM, value)

    return Collectives(
        num_replicas=context.num_replicas_in_sync,
        replica_id=context.replica_id_in_sync_group,
        # The gradient of an all-reduce is another one; a count needs none.
        sum=lambda value: linked_sum(tf.stop_gradient(value)),
        linked_sum=linked_sum,
        gather=lambda rows, offset, total: _all_rows(context, tf.stop_gradient(rows)),
    )


def _all_rows(context: Any, rows: Any) -> Any:
    _note_changing_shapes(context.strategy)
    return context.all_gather(rows, axis=0)


_NOTE = "_tfdist_changes_shapes"


def _note_changing_shapes(strategy: tf.distribute.Strategy) -> None:
    if not keras_compat.reduces_on_one_device(strategy):
        vars(strategy)[_NOTE] = True


def changes_shapes(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether a step that was traced has collectives whose shape follows the batch.

    TensorFlow's collectives keep the shape that they had first in a call of a traced function
    ("Shape mismatch in the collective instance"), so such steps run one a call.
    """
    return _NOTE in vars(strategy)


def padded(rows: tf.Tensor, offset: Any, total: Any) -> tf.Tensor:
    """Returns `total` rows, zeros but for `rows`, which begin at number `offset`."""
    rest = [[0, 0]] * (rows.shape.rank - 1)
    # Rolled, since XLA pads by what is known while it compiles, and an offset is not.
    return tf.roll(tf.pad(rows, [[0, total - tf.shape(rows)[0]], *rest]), offset, axis=0)


def sum_gradients(strategy: tf.distribute.Strategy, gradients: Sequence[Any]) -> list[Any]:
    """Sums gradients over all replicas of all workers.

    Args:
        strategy: The strategy whose replicas made them.
        gradients: Per-replica tensors or IndexedSlices, in cross-replica context; None where a
            variable got no gradient, on every replica.

    Returns:
        One tensor or IndexedSlices each: rows of an embedding stay rows, since Keras's optimizers
        update the touched rows alone.
    """
    if strategy.num_replicas_in_sync == 1:
        return list(gradients)
    present = [gradient for gradient in gradients if gradient is not None]
    if any(isinstance(_first(gradient), tf.IndexedSlices) for gradient in present):
        _note_changing_shapes(strategy)  # as many rows as the batch has tokens
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=BYTES_PER_PACK)
    reduced = strategy.extended.batch_reduce_to(
        tf.distribute.ReduceOp.SUM, [(value, _home(value)) for value in present], options
    )
    # Backwards through the layers they came; forwards they go on, Nones in their places.
    remaining = iter(reduced)
    return [None if value is None else _local(strategy, next(remaining)) for value in gradients]


def _first(value: Any) -> Any:
    return value.values[0] if isinstance(value, tf.distribute.DistributedValues) else value


def _home(value: Any) -> Any:
    return _first(value).device or "/device:CPU:0"


def _local(strategy: tf.distribute.Strategy, value: Any) -> Any:
    return strategy.experimental_local_results(value)[0]
