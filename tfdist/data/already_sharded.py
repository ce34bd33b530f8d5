"""What if each worker passes only its own examples, instead of the global batches?

With `already_sharded=True` a worker's batches hold its own rows, any number of them, and the rows
of all workers in a step are the global batch. So every step begins with a small all-gather of row
counts, from which each replica knows its position. A worker whose examples end early goes on with
empty batches until all have ended: `padded` makes its stream endless, with one row per batch that
does not count, and training ends at the first step for which no worker has a row.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.share import Share, bounds
from tfdist.communication.workers import Workers
from tfdist.data import rows
from tfdist.data.adapters import refuse_batch_size
from tfdist.data.rows import unconverted
from tfdist.data.source import Source

_UNKNOWN, _INFINITE = -1, -2


def alone(share: Share) -> Share:
    """Returns the share of a worker that feeds its own replicas and knows of no others."""
    return Share(0, share.local_replicas, share.local_replicas)


def batch_size_of(share: Share, global_size: int | None) -> int:
    """Returns a worker's part of a global batch size, for its own arrays.

    Raises:
        ValueError: The global batch leaves this worker no row, or is not a positive integer.
    """
    refuse_batch_size(global_size)
    size = global_size or 32
    replicas = share.replicas
    start, _ = bounds(size, replicas.start, share.num_replicas)
    stop, _ = bounds(size, replicas.stop, share.num_replicas)
    if stop == start:
        raise ValueError(
            f"batch_size={size!r} examples over all workers leave none for the replicas "
            f"{list(replicas)} of {share.num_replicas}. Give at least one example a worker."
        )
    return stop - start


def agreed(source: Source, workers: Workers) -> Source:
    """Makes a worker's own source part of one that all workers go through together.

    Args:
        source: This worker's source, made for the share that `alone` returns.
        workers: All workers; each has to call it.

    Raises:
        ValueError: The data of one worker never ends, and the data of another does; or the tensors
            of a batch have different numbers of rows.
    """
    for part in source.stream(0, 0).element_spec[1]:
        rows.refuse_unlike(part)
    own = _INFINITE if source.is_infinite else source.num_batches
    lengths = workers.gather(_UNKNOWN if own is None else own)[:, 0]
    if _INFINITE in lengths and (lengths >= 0).any():
        found = {rank: "endless" if n == _INFINITE else f"{n} batches" for rank, n in
                 enumerate(lengths.tolist()) if n != _UNKNOWN}
        raise ValueError(
            f"The workers' own data end on some workers only: {found} by worker. Call .repeat() on "
            "all of them, with steps_per_epoch=..., or on none."
        )
    return dataclasses.replace(
        source,
        num_batches=int(lengths.max()) if (lengths >= 0).all() else None,
        stream=lambda first_pass, start: padded(source, first_pass, start),
        endless=False,
        is_share=True,
        arrays=None,  # only the stream goes on with empty batches after its end
    )


def padded(source: Source, first_pass: int, start: int) -> tf.data.Dataset:
    """Returns one pass of `(size, parts)` from batch `start` on, then empty batches for ever.

    An empty batch has the size 0, and holds the first row of the last batch that was not empty.
    """
    stream = source.stream(first_pass, start)
    if source.endless and source.num_batches is not None:
        stream = stream.take(source.num_batches - start)
    _, parts_spec = stream.element_spec
    blank = tuple(rows.blank(part) for part in parts_spec)
    empty = tf.data.Dataset.from_tensors((tf.zeros([], tf.int32), blank)).repeat()

    def fill(last: Any, element: Any) -> tuple[Any, Any]:
        size, parts = element
        with tf.control_dependencies([rows.count_alike(part) for part in parts]):
            size = tf.identity(size)
        filled = tf.cond(size > 0, lambda: parts, lambda: _unpacked(last, parts_spec))
        return _packed(_first_rows(filled)), (size, filled)

    return stream.concatenate(empty).scan(_packed(blank), unconverted(fill))


def sizes_of_replicas(strategy: tf.distribute.Strategy, share: Share, own_size: Any) -> tf.Tensor:
    """Returns the rows of each replica of all workers, int32 of shape `(num_replicas,)`.

    Args:
        strategy: The strategy; called in cross-replica context, by all workers.
        share: Which replicas this worker feeds.
        own_size: Rows of this worker's batch.
    """

    def size_of(context: Any) -> tf.Tensor:
        own = context.replica_id_in_sync_group % share.local_replicas
        start, stop = bounds(own_size, own, share.local_replicas)
        return tf.reshape(tf.cast(stop - start, tf.int64), [])

    return tf.cast(collectives.gathered(strategy, size_of), tf.int32)


def only_own(share: Share, own_size: Any) -> tf.Tensor:
    """Returns what `sizes_of_replicas` would return if no other worker had a row."""
    sizes = [bounds(own_size, i, share.local_replicas) for i in range(share.local_replicas)]
    own = tf.stack([stop - start for start, stop in sizes])
    before = tf.zeros([share.first_replica], tf.int32)
    after = tf.zeros([share.num_replicas - share.replicas.stop], tf.int32)
    return tf.concat([before, own, after], 0)


def _packed(parts: Any) -> Any:
    """Splits ragged tensors into their parts, since a scan's state cannot hold them."""

    def pack(leaf: Any) -> Any:
        if isinstance(leaf, tf.RaggedTensor):
            return (leaf.flat_values, *leaf.nested_row_splits)
        return leaf

    return keras.tree.map_structure(pack, parts, none_is_leaf=False)


def _unpacked(packed: Any, spec: Any) -> Any:
    def unpack(leaf_spec: Any, leaf: Any) -> Any:
        if isinstance(leaf_spec, tf.RaggedTensorSpec):
            return tf.RaggedTensor.from_nested_row_splits(leaf[0], leaf[1:], validate=False)
        return leaf

    return keras.tree.map_structure_up_to(spec, unpack, spec, packed)


def _first_rows(parts: Any) -> Any:
    return tuple(keras.tree.map_structure(lambda p: rows.cut(p, 0, 1), part, none_is_leaf=False)
                 for part in parts)
