"""Which numbers of a draw for the global batch are those of a replica's rows?

A counter-based generator (Philox) makes any of them without those before it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.global_batch.position import Position

_PHILOX = 1
_BLOCK_BITS = 128  # yielded by one step of Philox's counter


def uniform_rows(
    shape: Any, position: Position, *, dtype: Any, seed: Any, blocks: int = 1
) -> tf.Tensor:
    """Draws this replica's rows of a uniform `[0, 1)` tensor over the global batch.

    Args:
        shape: Shape of the replica's own rows.
        position: Where these rows stand.
        dtype: A floating dtype.
        seed: int32 or int64 tensor of shape (2,).
        blocks: Of how many batches, one after the other, the rows are; see blocks.py.

    Returns:
        Tensor of `shape`: from row `position.offset` on, the rows of `tf.random.stateless_uniform`
        with the global shape and the same seed, bit for bit.
    """
    draw = tf.raw_ops.StatelessRandomUniformV2
    return _rows(draw, shape, position, dtype=dtype, seed=seed, blocks=blocks)


def normal_rows(
    shape: Any, position: Position, *, dtype: Any, seed: Any, blocks: int = 1
) -> tf.Tensor:
    """Draws this replica's rows of a standard normal tensor; see `uniform_rows`."""
    draw = tf.raw_ops.StatelessRandomNormalV2
    return _rows(draw, shape, position, dtype=dtype, seed=seed, blocks=blocks)


def _rows(
    op: Callable[..., Any], shape: Any, position: Position, *, dtype: Any, seed: Any, blocks: int
) -> Any:
    dims = dims_of(shape)
    if blocks > 1:
        return _rows_of_blocks(op, dims, position, dtype=dtype, seed=seed, blocks=blocks)
    dtype = tf.as_dtype(dtype)
    # Few operations: a draw is one of the most frequent things that a step is traced with.
    per_block = min(_BLOCK_BITS // (8 * dtype.size), 4)
    count = _number_of(dims)
    per_row = count // tf.cast(computed_rows(position), tf.int64)
    begin = per_row * tf.cast(position.offset, tf.int64)
    block = tf.constant(per_block, tf.int64)
    key, counter = _key_and_counter(seed)
    counter += tf.stack([tf.cast(begin // block, tf.uint64), tf.constant(0, tf.uint64)])
    # One block too many, so that XLA sees sizes that do not depend on the position.
    flat = op(shape=tf.stack([count + block]), key=key, counter=counter, alg=_PHILOX, dtype=dtype)
    rows = tf.slice(flat, tf.stack([begin % block]), tf.stack([count]))
    rows = tf.reshape(rows, tf.stack(dims))
    rows.set_shape(_static(shape))
    return rows


def _number_of(dims: list[Any]) -> tf.Tensor:
    """Returns how many numbers a tensor of these dimensions has, as an int64 scalar."""
    known = tf.constant(math.prod(dim for dim in dims if isinstance(dim, int)), tf.int64)
    for dim in dims:
        if not isinstance(dim, int):
            known *= tf.cast(dim, tf.int64)
    return known


def _rows_of_blocks(
    op: Callable[..., Any], dims: list[Any], position: Position, *, blocks: int, **how: Any
) -> Any:
    """Draws the rows of several batches, which lie as far apart as the global batch is long."""
    held = dims[0] // blocks

    def of_block(number: int) -> Any:
        offset = position.offset + number * position.global_size
        moved = dataclasses.replace(position, offset=offset)
        rest = dims[0] - held * (blocks - 1)  # where the last one is longer
        own = rest if number == blocks - 1 else held
        return _rows(op, [own, *dims[1:]], moved, blocks=1, **how)

    return tf.concat([of_block(number) for number in range(blocks)], axis=0)


def _key_and_counter(seed: Any) -> tuple[tf.Tensor, tf.Tensor]:
    drawn = tf.raw_ops.StatelessRandomGetKeyCounter(seed=seed)
    return drawn.key, drawn.counter


def computed_rows(position: Position) -> Any:
    """Returns the rows that a replica computes on, whether they count or not."""
    return position.padded_rows or position.fixed_rows or tf.maximum(position.local_size, 1)


def dims_of(shape: Any) -> list[Any]:
    """Returns the dimensions of a shape: ints, or int32 scalar tensors where they are open."""
    if isinstance(shape, tf.TensorShape):
        return shape.as_list()
    if not tf.is_tensor(shape):
        return [tf.cast(dim, tf.int32) if tf.is_tensor(dim) else int(dim) for dim in shape]
    dims = tf.unstack(tf.cast(shape, tf.int32))
    known = tf.get_static_value(shape, partial=True)
    known = [None] * len(dims) if known is None else list(known)
    return [dim if size is None else int(size) for dim, size in zip(dims, known, strict=True)]


def _static(shape: Any) -> Any:
    return [dim if isinstance(dim, int) else None for dim in dims_of(shape)]
