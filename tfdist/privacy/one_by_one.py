"""How are the gradients of all examples clipped and summed one after the other?

Whatever a model is made of, the gradient of a batch of one example depends on no other. It is slow,
and right for every layer that keeps no state.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.global_batch import position as position_lib
from tfdist.global_batch import whole_batch
from tfdist.global_batch.position import Position
from tfdist.privacy import factors


def clipped_sums(
    variables: Sequence[Any],
    loss_of: Callable[[Any], Any],
    data: Any,
    *,
    position: Position,
    norm: float,
    step: Any,
) -> tuple[list[Any], Any]:
    """Returns the sum of the examples' clipped gradients for each weight, and their losses.

    Args:
        variables: The trainable weights.
        loss_of: Computes the loss of a batch of one row, `(1,)`.
        data: The rows.
        position: Where they stand; the first `local_size` of them count.
        norm: What the norm of each example's gradient is clipped to.
        step: Number of the step, which random layers draw by.
    """
    rows = next(leaf for leaf in keras.tree.flatten(data) if leaf is not None).shape[0]
    values = [v.value for v in variables]

    def body(index: Any, losses: Any, *sums: Any) -> Any:
        row = keras.tree.map_structure(
            lambda leaf: leaf if leaf is None else leaf[index : index + 1], data,
            none_is_leaf=False,
        )
        with _alone(position, step, index), tf.GradientTape() as tape:
            loss = tf.ensure_shape(loss_of(row), [1])
        own = [  # whose shapes TensorFlow does not know behind each operation
            tf.zeros_like(value) if one is None
            else tf.ensure_shape(tf.convert_to_tensor(one), value.shape)
            for one, value in zip(tape.gradient(loss, values), values, strict=True)
        ]
        each = [factors.of_each(one[tf.newaxis], one.shape.as_list()) for one in own]
        squares = tf.add_n([tf.cast(one.squares, each[0].squares.dtype) for one in each])
        factor = factors.factors_of(squares, tf.constant([True]), norm)
        added = [
            total + tf.cast(one.total(tf.cast(factor, one.squares.dtype)), total.dtype)
            for one, total in zip(each, sums, strict=True)
        ]
        return index + 1, losses.write(index, tf.cast(loss[0], tf.float64)), *added

    losses = tf.TensorArray(tf.float64, rows, element_shape=[])
    zeros = [tf.zeros(v.shape, v.dtype) for v in variables]
    _, losses, *sums = tf.while_loop(
        lambda index, *_: index < position.local_size, body, [tf.constant(0), losses, *zeros],
        parallel_iterations=1,
    )
    return sums, losses.stack()


def _alone(position: Position, step: Any, number: Any) -> Any:
    """Makes the current position that of one of the rows, which is computed by itself."""
    alone = whole_batch.one_device(position)
    row, calls = tf.cast(position.offset + number, tf.uint32), 0

    def row_seed() -> tf.Tensor:
        nonlocal calls
        calls += 1
        first = tf.cast(step, tf.uint32) * tf.constant(2654435761, tf.uint32)
        return tf.stack([first + tf.constant(calls, tf.uint32), row])

    return position_lib.at(dataclasses.replace(alone, keeps_rows=True, row_seed=row_seed))
