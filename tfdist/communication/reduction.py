"""How do gradients and counts travel between replicas? Once, summed, in packs.

`sum_gradients` is the one reduction of a step, in cross-replica context. Where a step is one
program on every replica, the reduction is in step/tpu_step.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import tensorflow as tf

from tfdist.communication import compression
from tfdist.communication.collectives import note_changing_shapes
from tfdist.communication.compression import EXACT, Reduction
from tfdist.communication.exchange import Exchange
from tfdist.communication.ring import sum_by_ring
from tfdist.compat import tf_internals

_AT_ONCE = 4  # sums of workers with CPUs


class Lookups(NamedTuple):
    """The gradient of a table, some rows of which are looked up once for the whole batch.

    Attributes:
        of_batch: Lookups by the rows of the batch, as IndexedSlices; None if there are none.
        shared: The other lookups, the same on every replica, as IndexedSlices; their values are
            each replica's share.
    """

    of_batch: Any
    shared: Any


def joined(gradient: Any) -> Any:
    """Returns a gradient as one tensor, joining the parts of `Lookups`."""
    if not isinstance(gradient, Lookups):
        return gradient
    of_batch, shared = gradient
    if of_batch is None:
        return shared
    return tf.IndexedSlices(
        tf.concat([of_batch.values, shared.values], 0),
        tf.concat([of_batch.indices, tf.cast(shared.indices, of_batch.indices.dtype)], 0),
        of_batch.dense_shape,
    )


def sum_gradients(
    strategy: tf.distribute.Strategy,
    gradients: Sequence[Any],
    reduction: Reduction = EXACT,
    *,
    residuals: Sequence[Any] = (),
) -> list[Any]:
    """Sums gradients over all replicas of all workers.

    Args:
        strategy: The strategy whose replicas made them.
        gradients: Per-replica tensors, IndexedSlices or `Lookups`, in cross-replica context; None
            where a variable got no gradient, on every replica.
        reduction: How they travel.
        residuals: For error feedback: one variable per gradient, which holds each replica's
            rounding error, or None.

    Returns:
        One tensor or IndexedSlices per gradient, with the same bits on every worker. Rows of an
        embedding stay rows, since Keras's optimizers update only the touched rows.
    """
    if strategy.num_replicas_in_sync == 1:
        return [joined(gradient) for gradient in gradients]
    gradients, lookups = list(gradients), {}
    for index, gradient in enumerate(gradients):
        if isinstance(gradient, Lookups):
            gradients[index], lookups[index] = gradient
    shared = _sum_shared(strategy, list(lookups.values()))
    present = [index for index, gradient in enumerate(gradients) if gradient is not None]
    rows = [index for index in present if isinstance(_first(gradients[index]), tf.IndexedSlices)]
    dense = [index for index in present if index not in rows]
    kept = [residuals[index] if residuals else None for index in dense]
    sums = _sum_dense(strategy, [gradients[index] for index in dense], reduction, kept)
    summed = dict(zip(dense, sums, strict=True))
    if rows:
        note_changing_shapes(strategy)  # as many rows as the batch has tokens
        summed |= zip(
            rows, _sum_rows(strategy, [gradients[index] for index in rows]), strict=True
        )
    for index, alike in zip(lookups, shared, strict=True):
        summed[index] = joined(Lookups(summed.get(index), alike))
    return [summed.get(index) for index in range(len(gradients))]


def _sum_shared(strategy: tf.distribute.Strategy, gradients: Sequence[Any]) -> list[Any]:
    """Sums, row by row, the shares of rows that every replica has looked up.

    On one device such a row occurs once. If the shares were concatenated instead, an optimizer that
    squares gradients would square each share by itself.
    """
    parts = [list(strategy.experimental_local_results(gradient)) for gradient in gradients]
    values = [[part.values for part in of_replicas] for of_replicas in parts]
    if any(not part.shape.is_fully_defined() for (part, *_) in values):
        note_changing_shapes(strategy)
    sums = _sum_parts(strategy, values, EXACT)
    return [
        tf.IndexedSlices(total, part.indices, part.dense_shape)
        for total, (part, *_) in zip(sums, parts, strict=True)
    ]


def _sum_rows(strategy: tf.distribute.Strategy, gradients: Sequence[Any]) -> list[Any]:
    if not _travels_in_packs(strategy):
        return _reduced(strategy, gradients)
    parts = [strategy.experimental_local_results(gradient) for gradient in gradients]
    filled = [per_replica(strategy, [_filled(part) for part in of_all]) for of_all in parts]
    return [_without_fillers(summed) for summed in _reduced(strategy, filled)]


def _filled(rows: tf.IndexedSlices) -> tf.IndexedSlices:
    """Adds a row to an empty gradient: TensorFlow 2.21 aborts if it gathers no rows at all.

    A batch in which no word is looked up has such gradients.
    """
    with tf.device(rows.values.device):
        missing = tf.cast(tf.equal(tf.size(rows.indices), 0), tf.int32)
        beyond = [[0, 0]] * (rows.values.shape.rank - 1)
        values = tf.pad(rows.values, [[0, missing], *beyond])
        indices = tf.pad(rows.indices, [[0, missing]], constant_values=-1)
    return tf.IndexedSlices(values, indices, rows.dense_shape)


def _without_fillers(rows: tf.IndexedSlices) -> tf.IndexedSlices:
    with tf.device(rows.values.device):
        kept = tf.where(rows.indices >= 0)[:, 0]
        values, indices = tf.gather(rows.values, kept), tf.gather(rows.indices, kept)
    return tf.IndexedSlices(values, indices, rows.dense_shape)


def _sum_dense(
    strategy: tf.distribute.Strategy,
    gradients: Sequence[Any],
    reduction: Reduction,
    residuals: Sequence[Any],
) -> list[Any]:
    parts = [list(strategy.experimental_local_results(gradient)) for gradient in gradients]
    dtypes = [of_replicas[0].dtype for of_replicas in parts]
    narrowed = [index for index, dtype in enumerate(dtypes) if reduction.narrows(dtype)]
    scales: dict[int, Any] = dict.fromkeys(narrowed)
    lost = {
        index: strategy.experimental_local_results(residuals[index])
        for index in narrowed if residuals[index] is not None
    }
    for index, of_replicas in lost.items():
        pairs = zip(parts[index], of_replicas, strict=True)
        parts[index] = [part + residual.read_value() for part, residual in pairs]
    if narrowed and reduction.wire_dtype == "float16":
        bounds = [  # one vector for all of them: a round trip per gradient would cost too much
            tf.stack([compression.largest(parts[index][replica]) for index in narrowed])
            for replica in range(len(parts[0]))
        ]
        scale = compression.scales_of(_sum_parts(strategy, [bounds], reduction)[0])
        scales = dict(zip(narrowed, tf.unstack(scale, len(narrowed)), strict=True))
    for index in narrowed:
        wanted = parts[index]
        dtype = str(reduction.wire_dtype)
        parts[index] = [compression.narrow(part, dtype, scales[index]) for part in wanted]
        for residual, whole, sent in zip(lost.get(index, ()), wanted, parts[index], strict=False):
            error = whole - compression.widen(sent, whole.dtype, scales[index])
            # An infinity would stay in the residual for ever.
            residual.assign(tf.where(tf.math.is_finite(error), error, tf.zeros_like(error)))
    summed = _sum_parts(strategy, parts, reduction)
    for index in narrowed:
        summed[index] = compression.widen(summed[index], dtypes[index], scales[index])
    return summed


def _sum_parts(
    strategy: tf.distribute.Strategy, tensors: Sequence[Sequence[Any]], reduction: Reduction
) -> list[Any]:
    """Sums tensors, each given as the parts of this worker's replicas."""
    exchange = Exchange(strategy, at_once=_AT_ONCE)
    if exchange.is_direct:
        return sum_by_ring(exchange, [part for (part,) in tensors], reduction)
    # TensorFlow packs by concatenating: one type per call, and only known shapes.
    kinds = [(parts[0].dtype, parts[0].shape.is_fully_defined()) for parts in tensors]
    sums: dict[int, Any] = {}
    for kind in dict.fromkeys(kinds):
        alike = [index for index, other in enumerate(kinds) if other == kind]
        values = [per_replica(strategy, _placed(strategy, tensors[index])) for index in alike]
        sums |= zip(alike, _reduced(strategy, values, int(reduction.bucket_bytes)), strict=True)
    return [sums[index] for index in range(len(tensors))]


def _placed(strategy: tf.distribute.Strategy, parts: Sequence[Any]) -> list[Any]:
    """Puts each part on its replica's device, since TensorFlow packs what it knows to be there."""
    if not _travels_in_packs(strategy):
        return list(parts)
    placed = []
    for part, device in zip(parts, strategy.extended.worker_devices, strict=True):
        with tf.device(device):
            placed.append(tf.identity(part))
    return placed


def _reduced(
    strategy: tf.distribute.Strategy, values: Sequence[Any], bytes_per_pack: int = 0
) -> list[Any]:
    """Sums per-replica values, in the order given."""
    options = tf.distribute.experimental.CommunicationOptions(bytes_per_pack=bytes_per_pack)
    if not values:
        return []
    # TensorFlow packs only sums that stay on their devices; a sum on one device is not copied back.
    stays = _travels_in_packs(strategy)
    pairs = [(value, value if stays and _is_several(value) else _home(value)) for value in values]
    summed = strategy.extended.batch_reduce_to(tf.distribute.ReduceOp.SUM, pairs, options)
    return [_local(strategy, value) for value in summed]


def per_replica(strategy: tf.distribute.Strategy, parts: Sequence[Any]) -> Any:
    """Gives each local replica its own one of `parts`."""
    if len(parts) == 1:
        return parts[0]
    values = iter(parts)  # the strategy asks for its local replicas in their order
    return strategy.experimental_distribute_values_from_function(lambda _: next(values))


def _travels_in_packs(strategy: tf.distribute.Strategy) -> bool:
    return not tf_internals.reduces_on_one_device(strategy)


def _is_several(value: Any) -> bool:
    return isinstance(value, tf.distribute.DistributedValues)


def _first(value: Any) -> Any:
    return value.values[0] if _is_several(value) else value


def _home(value: Any) -> Any:
    return _first(value).device or "/device:CPU:0"


def _local(strategy: tf.distribute.Strategy, value: Any) -> Any:
    return strategy.experimental_local_results(value)[0]
