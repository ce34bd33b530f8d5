"""How does a function run on every replica's rows of a global batch, and how do rows come back?

`run` hands each replica its rows and its `Position`, and puts the meaning of the global batch in
force while the function is traced (global_batch/tracing.py). Everything in here is called in
cross-replica context, except `position_of`, which a replica calls.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import reduction, share
from tfdist.communication.collectives import Collectives, for_replica
from tfdist.data import rows
from tfdist.data.shapes import Padding
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position, Timesteps
from tfdist.global_batch.tracing import whole_batch_semantics
from tfdist.global_batch.whole_batch import one_device


@dataclasses.dataclass(frozen=True)
class Batch:
    """The part of one global batch that this worker holds.

    Attributes:
        global_size: Rows of all replicas of all workers; int32 scalar.
        parts: One structure of tensors per local replica. A replica that the batch leaves empty
            holds one row that does not count.
        sizes: Rows of each replica, int32 of shape `(num_replicas,)`, if the batch is not split by
            `share.bounds`; else None.
        padding: The shape that every part is padded to; None without static shapes.
        timesteps: The length of the targets, if that is padded too.
        is_whole: Whether every part has all rows. Every replica then computes on them as one device
            does, and what replica 0 makes of them counts; see whole.py.
    """

    global_size: tf.Tensor
    parts: tuple[Any, ...]
    sizes: tf.Tensor | None = None
    padding: Padding | None = None
    timesteps: Timesteps | None = None
    is_whole: bool = False

    @property
    def is_padded(self) -> bool:
        """Whether there may be rows or timesteps that do not count in any part."""
        return self.padding is not None and self.padding.is_needed


def run(
    strategy: tf.distribute.Strategy,
    replica_fn: Callable[[Any], Any],
    batch: Batch,
    *,
    reduces_losses: bool = True,
    keeps_sizes: bool = False,
    gives_rows: bool = False,
) -> Any:
    """Runs `replica_fn` on each replica's rows.

    Args:
        strategy: The strategy whose replicas run it.
        replica_fn: Takes one replica's structure of tensors; finds its `position.current()` set
            where there are several replicas.
        batch: One global batch.
        reduces_losses: Whether Keras's losses and metrics take on the meaning of the global batch
            (True), or only the random draws do, as in a custom training rule (False).
        keeps_sizes: Whether the function sees how many rows there are, if the data fixes it. A
            number derived from it looks like any other constant, so only code that may ask for the
            number sees it.
        gives_rows: Whether the function returns rows, and not the replica's shares of a sum.

    Returns:
        What `replica_fn` returns, per replica. Of a batch that is whole, shares are `of_first`.
    """
    plain = tf.autograph.experimental.do_not_convert
    if strategy.num_replicas_in_sync == 1 and not batch.is_padded:
        return strategy.run(plain(replica_fn), batch.parts)

    def placed(data: Any) -> Any:
        position = position_of(batch.global_size, batch.sizes, batch.padding)
        if batch.is_whole:
            position = one_device(position)
        if batch.padding is None and not keeps_sizes:
            data = rows.opened(data)
        position = dataclasses.replace(
            position, timesteps=batch.timesteps, fixed_rows=rows.fixed_in(data),
            inputs=tuple(keras.tree.flatten(data)),
        )
        with position_lib.at(position):
            result = replica_fn(data)
        return of_first(result) if batch.is_whole and not gives_rows else result

    with whole_batch_semantics(reduces_losses=reduces_losses):
        return strategy.run(plain(placed), args=(reduction.per_replica(strategy, batch.parts),))


def position_of(
    global_size: Any,
    sizes: Any = None,
    padding: Padding | None = None,
    collectives: Collectives | None = None,
) -> Position:
    """Returns the current replica's position in a global batch that is split by `sizes`, or evenly.

    Args:
        global_size: Rows of the global batch.
        sizes: As in `Batch`.
        padding: As in `Batch`.
        collectives: The replica's collectives, if no strategy provides them.
    """
    collectives = collectives or for_replica()
    replica = collectives.replica_id
    if padding is not None and not padding.is_needed:  # constants, so that XLA sees fixed sizes
        own = tf.constant(padding.rows)
        return Position(
            own * collectives.num_replicas, own, own * replica, collectives,
            fixed_rows=padding.rows,
        )
    if sizes is None:
        start, stop = share.bounds(global_size, replica, collectives.num_replicas)
    else:
        start, stop = tf.reduce_sum(sizes[:replica]), tf.reduce_sum(sizes[: replica + 1])
    return Position(
        global_size=global_size, local_size=stop - start, offset=start, collectives=collectives,
        padded_rows=padding.rows if padding is not None else None,
    )


def of_first(structure: Any) -> Any:
    """Returns what replica 0 has, and zeros on all others, so that the sum is replica 0's.

    Args:
        structure: Tensors, IndexedSlices and None; called by every replica.
    """
    is_first = tf.equal(tf.distribute.get_replica_context().replica_id_in_sync_group, 0)

    def own(value: Any) -> Any:
        if value is None:
            return None
        if isinstance(value, tf.IndexedSlices):  # none of the others' rows
            count = tf.where(is_first, tf.shape(value.indices)[0], 0)
            rows, indices = value.values[:count], value.indices[:count]
            return tf.IndexedSlices(rows, indices, value.dense_shape)
        value = tf.convert_to_tensor(value)
        return tf.where(is_first, value, tf.zeros_like(value))

    return tf.nest.map_structure(own, structure)


def gather_rows(
    strategy: tf.distribute.Strategy, value: Any, *, only_own: bool = False
) -> Any:
    """Joins the replicas' rows, of all workers or of this one, in the order of the global batch."""
    if strategy.num_replicas_in_sync == 1:
        return value
    local = strategy.experimental_local_results(value)
    if len(local) < strategy.num_replicas_in_sync and not only_own:
        return strategy.gather(value, axis=0)
    return tf.concat(local, axis=0)


def without_padding(value: Any, batch: Batch, num_replicas: int) -> Any:
    """Cuts what does not count out of the joined rows of all replicas."""
    if not batch.is_padded or batch.padding is None:
        return value
    start, stop = share.bounds(batch.global_size, tf.range(num_replicas), num_replicas)
    is_real = tf.range(batch.padding.rows) < (stop - start)[:, tf.newaxis]
    is_real = tf.reshape(is_real, [-1])
    each = tf.shape(value)[0] // (batch.padding.rows * num_replicas)
    return tf.boolean_mask(value, tf.repeat(is_real, each))
