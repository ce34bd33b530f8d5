"""How does every batch get one shape?

Under static shapes each replica's part of a batch is padded to `Padding.rows` rows by repeating its
last row (zeros would not do: a model may turn them into NaN, and `NaN * 0` is NaN). The step counts
only the first `local_size` rows, see global_batch/padded_rows.py. So a step is traced once, and XLA
compiles it once; with `length_buckets`, once per length (lengths.py).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NoReturn

import keras
import tensorflow as tf

from tfdist.communication.share import Share
from tfdist.data import lengths as lengths_lib
from tfdist.data.rows import unconverted
from tfdist.data.shapes import Padding
from tfdist.data.source import Source


def pad(source: Source, share: Share, buckets: tuple[int, ...] = ()) -> Source:
    """Gives every batch of a source one shape.

    Args:
        source: Its batches may differ in their number of rows, and with `buckets` in length.
        share: Which replicas this worker feeds.
        buckets: The lengths that open second dimensions are padded to, ascending; () for none.

    Returns:
        A source with the same batches, each part of which has `padding.rows` rows: the largest
        batch divided by the replicas, rounded up. `global_size` counts the real rows. If lengths
        are padded, a part is a pair, see `lengths.to_bucket`.

    Raises:
        ValueError: The data is ragged or sparse, has another dimension that varies, or its largest
            batch is not known.
    """
    _refuse_other_than_dense(source.spec)
    lengths = lengths_lib.lengths_of(source.spec, buckets)
    with tf.init_scope():
        size = source.batch_size()
    if size is None:
        raise ValueError(
            "Static shapes need the size of the largest batch, and the data does not say it. Make "
            "it a tf.data.Dataset that ends in .batch(global_batch_size), or pass "
            "static_shapes=False."
        )
    rows = -(-size // share.num_replicas)
    is_full = source.is_even and rows * share.num_replicas == size

    def padded(global_size: tf.Tensor, parts: Any, *rest: Any) -> tuple[Any, ...]:
        checked = tf.debugging.assert_less_equal(
            global_size, size, "A batch is larger than the first ones, which static shapes do not "
            f"allow: the largest one was expected to have {size} rows. Give all batches the same "
            "size, except a smaller last one, or pass static_shapes=False."
        )
        with tf.control_dependencies([checked]):
            parts = tuple(_padded(part, rows) for part in parts)
            if lengths is not None:
                parts = lengths_lib.to_bucket(parts, lengths)
        return (global_size, parts, *rest)

    def stream(first_pass: int, start: int) -> tf.data.Dataset:
        batches = source.stream(first_pass, start).map(unconverted(padded))
        return batches.prefetch(tf.data.AUTOTUNE) if source.reads_ahead else batches

    is_needed = not is_full or lengths is not None
    padding = Padding(rows=rows, is_needed=is_needed, lengths=lengths)
    return dataclasses.replace(source, stream=stream, padding=padding, arrays=None)


def refuse_own_share() -> NoReturn:
    """Raises a ValueError: with own examples the workers cannot agree on a shape in advance."""
    raise ValueError(
        "static_shapes=True cannot be combined with already_sharded=True: how many rows each "
        "worker brings is only known in the step, so no shape can be agreed on before. Give every "
        "worker the global batches and leave out already_sharded, or pass static_shapes=False."
    )


def _padded(part: Any, rows: int) -> Any:
    """Repeats the last row of every tensor until there are `rows`."""

    def pad_one(value: Any) -> Any:
        if value is None:
            return None
        numbers = tf.minimum(tf.range(rows), tf.shape(value)[0] - 1)
        padded = tf.gather(value, numbers)
        padded.set_shape([rows, *value.shape[1:]])
        return padded

    return keras.tree.map_structure(pad_one, part, none_is_leaf=False)


def _refuse_other_than_dense(spec: Any) -> None:
    for leaf in keras.tree.flatten(spec):
        if leaf is None or not hasattr(leaf, "shape"):
            continue
        if not isinstance(leaf, tf.TensorSpec):
            raise ValueError(
                f"Static shapes need dense data, but a batch holds {leaf!r}. Make it dense "
                "(.to_tensor() of ragged, tf.sparse.to_dense of sparse data), or pass "
                "static_shapes=False."
            )
