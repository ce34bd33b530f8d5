"""What of a loss with one value a row, which Keras or a gradient tape sums by itself?

A replica's loss counts with the fraction of rows that it has, which is right for means. A sum over
its rows has to count whole. Where the sum is made by code that tfdist sees, the rows are known to
be rows by their shape: a layer's `add_loss` of a vector, of which Keras takes the sum, and a vector
that `tape.gradient` is given, whose gradient is that of the sum.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdist.global_batch import position as position_lib
from tfdist.global_batch.losses_metrics import sum_of_rows


def is_of_rows(value: Any) -> bool:
    """Tells whether a tensor has an entry for each of the replica's rows, or more than one."""
    position = position_lib.current()
    if position is None or not isinstance(value, tf.Tensor) or not value.shape.rank:
        return False
    return value.shape[0] in (None, position.fixed_rows)


def added(add_loss: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """Returns `Layer.add_loss` with losses of rows that count whole; `add_loss` does the rest."""

    def add(layer: Any, loss: Any) -> None:
        add_loss(layer, keras.tree.map_structure(_whole, loss))

    return add


def _whole(loss: Any) -> Any:
    return sum_of_rows(loss) if is_of_rows(loss) else loss


def gradient(
    original: Callable[..., Any], tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any
) -> Any:
    """Does as `tape.gradient`, with the gradients of losses of rows counting whole.

    Args:
        original: TensorFlow's own.
        tape: The tape.
        target: As there.
        sources: As there. Gradients for anything but variables, such as those of a penalty, are
            left alone: each belongs to its row.
        *args: As there; where gradients of the target are given, nothing is changed.
        **kwargs: As there.
    """
    targets = keras.tree.flatten(target)
    has_rows = any(is_of_rows(one) for one in targets)
    is_given = bool(args) or kwargs.get("output_gradients") is not None
    if not has_rows or is_given or not are_variables(sources):
        return original(tape, target, sources, *args, **kwargs)
    weights = [_whole(tf.ones_like(one)) if is_of_rows(one) else tf.ones_like(one)
               for one in targets]
    weights = keras.tree.pack_sequence_as(target, weights)
    return original(tape, target, sources, **{**kwargs, "output_gradients": weights})


def share_of_gradient(
    original: Callable[..., Any],
    tape: Any,
    target: Any,
    sources: Any,
    output_gradients: Any = None,
    **kwargs: Any,
) -> Any:
    """Returns this replica's share of the gradient of the global batch.

    A loss of rows counts whole, any other one with the replica's fraction. The weight is given to
    the loss, not to its gradient: on its way back through the other replicas (a synchronized
    BatchNormalization, `tfdist.all_rows`) a gradient is added to theirs.

    Args:
        original: TensorFlow's `tape.gradient`.
        tape: The tape.
        target: As there.
        sources: As there: variables.
        output_gradients: As there.
        **kwargs: As there.
    """
    targets = tf.nest.flatten(target)
    given = [None] * len(targets)
    given = given if output_gradients is None else tf.nest.flatten(output_gradients)
    weights = [_weight(one, of_one) for one, of_one in zip(targets, given, strict=True)]
    weights = tf.nest.pack_sequence_as(target, weights)
    return original(tape, target, sources, output_gradients=weights, **kwargs)


def _weight(target: Any, given: Any) -> Any:
    position = position_lib.current()
    if position is None or not isinstance(target, tf.Tensor) or not target.dtype.is_floating:
        return given
    if given is None and is_of_rows(target):
        counts = tf.cast(position.local_size > 0, target.dtype)
        return tf.fill(tf.shape(target), counts)
    given = tf.ones_like(target) if given is None else tf.convert_to_tensor(given)
    return given * position.fraction(given.dtype)


def are_variables(sources: Any) -> bool:
    """Tells whether gradients are asked for variables alone."""
    flat = keras.tree.flatten(sources)
    return all(isinstance(source, (tf.Variable, keras.Variable)) for source in flat)
