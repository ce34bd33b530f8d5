"""What is the loss of each example by itself?

The one that Keras gives for a batch of this example alone: the mean over what the loss function
returns for it, by its own mask and its own weight. The mean of these is the loss of a batch, unless
a mask leaves examples different numbers of timesteps, which a batch counts alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

_MEANS = ("mean", "sum_over_batch_size")


def of_rows(
    original: Callable[..., Any],
    values: Any,
    sample_weight: Any,
    mask: Any,
    reduction: str | None,
    dtype: Any,
    *,
    name: str,
) -> Any:
    """Reduces the values of a loss function to one for each row.

    Args:
        original: Keras's `reduce_weighted_values`, whose arguments the next ones are.
        values: What the loss function returned, `(rows, ...)`.
        sample_weight: The weights, or None.
        mask: What counts, `(rows, ...)`, or None.
        reduction: What the loss was made with.
        dtype: Of the result.
        name: Of the loss, for messages.

    Raises:
        ValueError: It is not known what an example's own loss is.
    """
    if not values.shape.rank:
        raise ValueError(
            f"The {name} returned one number for the whole batch, which is the loss of no single "
            "example. Return one value for each example."
        )
    if reduction not in _MEANS:
        raise ValueError(
            f"The {name} was made with reduction={reduction!r}, and the loss of one example is its "
            "mean. Leave reduction out."
        )
    if mask is not None:
        mask = tf.cast(mask, values.dtype)
        inner = list(range(1, mask.shape.rank))
        size = tf.cast(tf.reduce_prod(tf.shape(mask)[1:]), mask.dtype)
        valid = tf.reduce_sum(mask, inner, keepdims=True)
        mask = mask * tf.math.divide_no_nan(size, valid)
    weighted = original(values, sample_weight, mask, "none", dtype)
    return tf.reduce_mean(tf.reshape(weighted, [tf.shape(weighted)[0], -1]), 1)
