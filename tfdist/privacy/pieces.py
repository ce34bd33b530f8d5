"""How is a private batch computed that is too large for the memory at once?

Piece by piece, in a loop: the sums of clipped gradients add up, and what follows, the noise and the
update, is done once, for the whole batch. The number of pieces is that of the most rows of a batch,
whatever was drawn, so time does not show it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position

_GOLDEN = 2654435761  # 2**32 by the golden ratio: seeds of near steps lie far apart


def sums(
    compute: Callable[[Any, Position], Sequence[Any]],
    data: Any,
    like: Sequence[Any],
    *,
    position: Position,
    size: int | None,
    step: Any,
) -> list[Any]:
    """Returns the sum of what a function returns for the pieces of a replica's rows.

    Args:
        compute: Takes rows and their position, which is the current one; returns tensors of fixed
            shapes. What it assigns, it assigns piece by piece.
        data: The rows.
        like: Has the shapes and types of what it returns.
        position: Where they stand, with `padded_rows`.
        size: Rows of a piece; None for all at once.
        step: Number of the step, which random layers draw by: in each piece what belongs to its
            rows, on any number of replicas and in pieces of any size.
    """
    rows = position.padded_rows or 0
    if size is None or size >= rows:
        return list(compute(data, position))
    count = -(-rows // size)

    def of_piece(number: Any) -> Sequence[Any]:
        begin = number * size
        own = tf.minimum(begin + tf.range(size), rows - 1)
        piece = keras.tree.map_structure(
            lambda leaf: leaf if leaf is None else tf.ensure_shape(
                tf.gather(leaf, own), [size, *leaf.shape[1:]]
            ), data, none_is_leaf=False,
        )  # fmt: skip
        here = dataclasses.replace(
            position, offset=position.offset + begin, padded_rows=size, of_rows=count * size,
            local_size=tf.clip_by_value(position.local_size - begin, 0, size),
            inputs=tuple(keras.tree.flatten(piece)), row_seed=_seeds(step),
        )
        with position_lib.at(here):
            return compute(piece, here)

    def body(number: Any, *before: Any) -> Any:
        more = zip(before, of_piece(number), strict=True)
        return number + 1, *(one + other for one, other in more)

    zeros = [tf.zeros(one.shape, one.dtype) for one in like]
    _, *found = tf.while_loop(
        lambda number, *_: number < count, body, [tf.constant(0), *zeros], parallel_iterations=1
    )
    return list(found)


def _seeds(step: Any) -> Callable[[], Any]:
    """Returns a function that gives each random layer of a step its seed, in each piece alike."""
    calls = 0

    def seed() -> tf.Tensor:
        nonlocal calls
        calls += 1
        first = tf.cast(step, tf.uint32) * tf.constant(_GOLDEN, tf.uint32)
        return tf.stack([first + tf.constant(calls, tf.uint32), tf.constant(0, tf.uint32)])

    return seed
