"""What does an optimizer compute of all gradients, where it is given one slice of each?

Norms to clip by, and whether all are finite: both are sums over the slices, and over the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.slices import Slices
from tfdist.sharding.sliced_weight import SlicedWeight


def clipped(
    optimizer: Any, weights: Sequence[SlicedWeight], gradients: Sequence[Any], slices: Slices
) -> list[Any]:
    """Clips gradients by the norms of whole ones, as Keras does.

    Args:
        optimizer: It has a `clipnorm` or a `global_clipnorm`.
        weights: Those that have gradients.
        gradients: One for each part of each of the weights.
        slices: Sums over the workers.
    """
    came = iter(gradients)
    own = [[next(came) for _ in weight.parts] for weight in weights]
    squares = [_squares(parts) for parts in own]
    if is_sliced := [i for i, weight in enumerate(weights) if not weight.is_whole]:
        types = [squares[i].dtype for i in is_sliced]
        widest = max(types, key=lambda dtype: dtype.size)
        total = slices.total(tf.stack([tf.cast(squares[i], widest) for i in is_sliced]))
        for i, dtype, value in zip(is_sliced, types, tf.unstack(total), strict=True):
            squares[i] = tf.cast(value, dtype)
    if optimizer.clipnorm:
        most = optimizer.clipnorm
        return [
            tf.clip_by_norm(part, most) if weight.is_whole
            else part * most / tf.maximum(tf.sqrt(square), most)
            for weight, parts, square in zip(weights, own, squares, strict=True)
            for part in parts
        ]
    most = optimizer.global_clipnorm
    norm = keras.ops.sqrt(keras.ops.sum(keras.ops.stack(squares)))
    # The last term is NaN for a norm that is not finite, as in Keras.
    scale = most * keras.ops.minimum(1.0 / norm, 1.0 / most) + (norm - norm)
    return [part * scale for parts in own for part in parts]


def flags(sums: Sequence[Sequence[Any] | None], slices: Slices) -> list[Any]:
    """Returns for each gradient a number that is finite where all of it is, on all workers.

    Args:
        sums: The parts of each gradient, or None.
        slices: Sums over the workers.
    """
    present = [parts for parts in sums if parts is not None]
    bad = tf.stack([tf.add_n([_is_bad(part) for part in parts]) for parts in present])
    found = iter(tf.unstack(1 / tf.cast(tf.equal(slices.total(bad), 0), tf.float32)))
    return [None if parts is None else next(found) for parts in sums]


def are_finite(own: tf.Tensor, slices: Slices) -> tf.Tensor:
    """Tells whether what each worker has found of its slices is true on all of them."""
    bad = tf.cast(tf.logical_not(own), tf.float32)
    return tf.equal(slices.total(bad[tf.newaxis])[0], 0)


def _squares(parts: Sequence[Any]) -> Any:
    sums = [keras.ops.sum(keras.ops.square(part)) for part in parts]
    return sums[0] if len(sums) == 1 else tf.add_n(sums)


def _is_bad(gradient: Any) -> tf.Tensor:
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return tf.cast(tf.logical_not(tf.reduce_all(tf.math.is_finite(values))), tf.float32)
