"""What does an optimizer compute of all gradients, where it is given parts of them?

Norms to clip by, and whether all are finite: both are sums over the parts, and over the workers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import reduction as reduction_lib
from tfdist.communication.share import share_of
from tfdist.sharding.stand_in import StandIn


def clipped(
    optimizer: Any, weights: Sequence[StandIn], gradients: Sequence[Any],
    strategy: tf.distribute.Strategy,
) -> list[Any]:
    """Clips gradients by the norms of whole ones, as Keras does.

    Args:
        optimizer: It has a `clipnorm` or a `global_clipnorm`.
        weights: Those that have gradients.
        gradients: One for each part of each of the weights.
        strategy: The strategy of the weights.
    """
    came = iter(gradients)
    own = [[next(came) for _ in weight.parts] for weight in weights]
    squares = [_squares(parts) for parts in own]
    if is_parted := [i for i, weight in enumerate(weights) if not weight.is_whole]:
        types = [squares[i].dtype for i in is_parted]
        widest = max(types, key=lambda dtype: dtype.size)
        total = _total(strategy, tf.stack([tf.cast(squares[i], widest) for i in is_parted]))
        for i, dtype, value in zip(is_parted, types, tf.unstack(total), strict=True):
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


def flags(sums: Sequence[Sequence[Any] | None], strategy: tf.distribute.Strategy) -> list[Any]:
    """Returns for each gradient a number that is finite where all of it is, on all workers.

    Args:
        sums: The parts of each gradient, or None.
        strategy: The strategy of the weights.
    """
    present = [parts for parts in sums if parts is not None]
    bad = tf.stack([tf.add_n([_is_bad(part) for part in parts]) for parts in present])
    found = iter(tf.unstack(1 / tf.cast(tf.equal(_total(strategy, bad), 0), tf.float32)))
    return [None if parts is None else next(found) for parts in sums]


def are_finite(own: tf.Tensor, strategy: tf.distribute.Strategy) -> tf.Tensor:
    """Tells whether what each worker has found of its parts is true on all of them."""
    bad = tf.cast(tf.logical_not(own), tf.float32)
    return tf.equal(_total(strategy, bad[tf.newaxis])[0], 0)


def _total(strategy: tf.distribute.Strategy, values: tf.Tensor) -> tf.Tensor:
    """Returns the sum over all workers of a vector, which each has made of its parts."""
    if not share_of(strategy).has_others:
        return values
    return reduction_lib.sum_gradients(strategy, [values])[0]


def _squares(parts: Sequence[Any]) -> Any:
    sums = [keras.ops.sum(keras.ops.square(part)) for part in parts]
    return sums[0] if len(sums) == 1 else tf.add_n(sums)


def _is_bad(gradient: Any) -> tf.Tensor:
    values = gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
    return tf.cast(tf.logical_not(tf.reduce_all(tf.math.is_finite(values))), tf.float32)
