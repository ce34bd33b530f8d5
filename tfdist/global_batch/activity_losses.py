"""What do activity regularizers add to the loss: a sum over the rows of a batch, or a mean?

Keras up to 3.13 adds them as sums, later releases as means, on any device. A mean is right on a
replica's rows as it is; a sum has to be weighted as a sum.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat.untraced import outside_of_steps
from tfdist.global_batch import padded_rows


@contextlib.contextmanager
def weighed_sums(weigh: Callable[[Any], Any]) -> Iterator[None]:
    """Applies `weigh` to activity losses that are sums; only inside of `replaced`.

    Rows that do not count are masked in both cases.
    """
    sums = _sums_activity()

    def get(layer: Any) -> Any:
        regularizer = layer.__dict__["activity_regularizer"]
        if not regularizer:
            return regularizer

        def regularized(output: Any) -> Any:
            loss = padded_rows.regularized(layer, regularizer, output)
            return weigh(loss) if sums else padded_rows.mean_of_counted(loss)

        return regularized

    def put(layer: Any, regularizer: Any) -> None:  # a layer that is made during the trace
        layer.__dict__["activity_regularizer"] = regularizer

    keras.layers.Layer.activity_regularizer = property(get, put)
    try:
        yield
    finally:
        del keras.layers.Layer.activity_regularizer


@functools.cache
def _sums_activity() -> bool:
    """Tells by a trial whether a layer's activity loss grows with the rows of the batch."""

    def trial() -> bool:
        layer = keras.layers.ActivityRegularization(l1=1.0, dtype="float32")
        losses = []
        for rows in (1, 2):
            layer(tf.ones((rows, 1)))
            losses.append(float(sum(layer.losses)))
        return losses[1] > losses[0]

    return bool(outside_of_steps(trial))
