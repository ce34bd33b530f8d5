"""How does a BatchNormalization see the rows of all replicas?

`BatchNormalization(synchronized=True)` sums its statistics over them, with two corrections here:
the row that an empty replica computes on does not count, and Keras does not synchronize inputs that
carry a mask (checked with Keras 3.13 to 3.16). A plain BatchNormalization uses the statistics of
each replica's own rows by definition; a warning says so once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfdist.compat import keras_internals, replacing
from tfdist.compat.notes import note_of, set_note
from tfdist.global_batch import padded_rows
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position

_LOG = logging.getLogger("tfdist")


def global_moments() -> dict[str, Callable[..., Any]]:
    """Returns replacements for the functions that compute a layer's synchronized moments."""
    synchronized = replacing.original("_compute_moments_sync")
    layer_moments = replacing.original("BatchNormalization._moments")

    def of_counted_rows(x: Any, axes: Any, keepdims: bool) -> tuple[Any, Any]:
        position = position_lib.current()
        if position is None:
            return synchronized(x, axes, keepdims)
        if position.padded_rows is None:
            x = x[: tf.where(position.local_size > 0, tf.shape(x)[0], 0)]
        return _synchronized_moments(x, axes, keepdims, position)

    def moments(layer: Any, inputs: Any, mask: Any) -> tuple[Any, Any]:
        position = position_lib.current()
        is_padded = position is not None and position.padded_rows is not None
        if is_padded and not layer.synchronized:
            return _own_moments(inputs, mask, keras_internals.reduction_axes(layer))
        if position is None or mask is None or not layer.synchronized:
            return layer_moments(layer, inputs, mask)
        return _masked_moments(inputs, mask, keras_internals.reduction_axes(layer), position)

    return {"_compute_moments_sync": of_counted_rows, "BatchNormalization._moments": moments}


def _synchronized_moments(x: Any, axes: Any, keepdims: bool, position: Position) -> tuple[Any, Any]:
    """Returns mean and variance over the rows of all replicas, by Keras's formula.

    Keras's own function only knows the collectives of a strategy.
    """

    def own(values: Any) -> Any:
        return tf.reduce_sum(padded_rows.zeroed(values), axis=axes, keepdims=True)

    linked_sum = position.collectives.linked_sum
    total_sum, total_of_squares = linked_sum(own(x)), linked_sum(own(tf.square(x)))
    count = position.collectives.sum(own(tf.ones_like(x)))  # which has no gradient
    mean = tf.math.divide_no_nan(total_sum, count)
    mean_of_squares = tf.math.divide_no_nan(total_of_squares, count)
    variance = tf.maximum(mean_of_squares - tf.square(mean), 0.0)
    if not keepdims:
        mean, variance = tf.squeeze(mean, axes), tf.squeeze(variance, axes)
    return mean, variance


def _masked_moments(inputs: Any, mask: Any, axes: Any, position: Position) -> tuple[Any, Any]:
    """Returns mean and variance over the valid timesteps of all replicas, by Keras's formula."""
    is_valid = _valid_timesteps(inputs, mask) & (position.local_size > 0)
    is_valid = padded_rows.zeroed(is_valid)
    return _moments_of(
        inputs,
        is_valid,
        axes,
        reduce=position.collectives.linked_sum,
        epsilon=keras.config.epsilon(),
    )


def _own_moments(inputs: Any, mask: Any, axes: Any) -> tuple[Any, Any]:
    """Returns mean and variance over a replica's rows that count; over all rows if none do."""
    is_valid = tf.ones_like(inputs, tf.bool) if mask is None else _valid_timesteps(inputs, mask)
    is_valid = padded_rows.zeroed(is_valid, unless_empty=True)
    epsilon = 0.0 if mask is None else keras.config.epsilon()  # as Keras does
    return _moments_of(inputs, is_valid, axes, reduce=lambda local: local, epsilon=epsilon)


def _valid_timesteps(inputs: Any, mask: Any) -> Any:
    return ops.cast(ops.broadcast_to(ops.expand_dims(mask, -1), ops.shape(inputs)), "bool")


def _moments_of(
    inputs: Any, is_valid: Any, axes: Any, *, reduce: Callable[[Any], Any], epsilon: float
) -> tuple[Any, Any]:
    """Returns mean and variance of the valid entries, whose sums go through `reduce`."""

    def total(values: Any) -> Any:
        return reduce(ops.sum(ops.where(is_valid, values, 0), axes, keepdims=True))

    count = total(ops.ones_like(inputs)) + epsilon
    mean = total(inputs) / count
    variance = total(ops.square(inputs - mean)) / count
    return ops.squeeze(mean), ops.squeeze(variance)


def plain_batch_normalizations(model: keras.Model) -> list[str]:
    """Returns the names of layers that normalize each replica's rows by those rows only."""
    return [
        layer.name
        for layer in keras_internals.flat_layers(model)
        if isinstance(layer, keras.layers.BatchNormalization)
        and layer.trainable
        and not layer.synchronized
    ]


def warn_of_plain(model: keras.Model, num_replicas: int) -> None:
    """Warns once per model that its BatchNormalization will differ from one device's.

    Args:
        model: A model that is about to be trained.
        num_replicas: Replicas of all workers together.
    """
    names = plain_batch_normalizations(model) if num_replicas > 1 else []
    if names and not note_of(model, "warned_of_statistics"):
        set_note(model, "warned_of_statistics", True)
        _LOG.warning(
            "%s normalizes each of the %d replicas' examples by their own mean and variance, so "
            "the result differs from one device's. Make it BatchNormalization(synchronized=True) "
            "for statistics of the global batch.",
            ", ".join(names),
            num_replicas,
        )
