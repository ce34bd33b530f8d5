"""How is a loss or metric computed that reduces a whole batch to one number?

A loss function that returns one number per row is right on any split of the batch. One that returns
a single number (a Dice coefficient, a mean taken inside, a sum, a ratio) may be anything. So it is
computed on the rows of all replicas: every replica gathers them, and gets the gradient of its own
rows. This is exact whatever the number is, and costs an all-gather of targets and outputs, which a
function that returns one value per row does not need.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf
from keras import ops

from tfdist.communication import collectives
from tfdist.compat import keras_internals, replacing, tensor_notes
from tfdist.global_batch import all_rows, example_losses, padded_rows, padded_timesteps
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position


@dataclasses.dataclass(frozen=True)
class _Call:
    """A loss or metric on a replica's rows, which may have to be computed again on all rows."""

    compute: Callable[[Any, Any], Any]
    y_true: Any
    y_pred: Any
    name: str


_calls = threading.local()


def functions() -> dict[str, Callable[..., Any]]:
    """Returns replacements for the functions of Keras that see such a number, or its origin."""
    original = replacing.original
    loss, metric = "Loss.__call__", "MeanMetricWrapper.update_state"
    return {
        loss: _method(_call_loss, original(loss)),
        "reduce_weighted_values": functools.partial(_reduce, original("reduce_weighted_values")),
        metric: _method(_update_metric, original(metric)),
    }


def _method(function: Callable[..., Any], original: Callable[..., Any]) -> Callable[..., Any]:
    # Not a partialmethod: padded_rows.py asks in which module a metric's method was written.
    def method(owner: Any, *args: Any, **kwargs: Any) -> Any:
        return function(owner, original, *args, **kwargs)

    return method


def _call_loss(
    loss: Any, original: Callable[..., Any], y_true: Any, y_pred: Any, sample_weight: Any = None
) -> Any:
    """Calls a loss, and remembers how to compute it again on the rows of all replicas."""
    position = position_lib.current()
    if isinstance(loss, keras.losses.Circle) and position and not position.has_all:
        raise ValueError(
            "keras.losses.Circle compares the examples of a batch with each other, and they "
            f"lie on {position.collectives.num_replicas} replicas. Train with it on one device."
        )

    def converted(value: Any) -> Any:
        return ops.convert_to_tensor(value, dtype=loss.dtype)

    def compute(*rows: Any) -> Any:
        return loss.call(*(keras.tree.map_structure(converted, value) for value in rows))

    with _remembered(_Call(compute, y_true, y_pred, f"loss {loss.name!r}")):
        return original(loss, y_true, y_pred, sample_weight)


def _reduce(
    original: Callable[..., Any],
    values: Any,
    sample_weight: Any = None,
    mask: Any = None,
    reduction: str | None = "sum_over_batch_size",
    dtype: Any = None,
) -> Any:
    """Reduces a loss's values; a single number is computed again on the rows of all replicas.

    Keras gives such a number the weights and the mask of the batch all the same: it becomes one
    value for each weight, and these are reduced.
    """
    position, call = position_lib.current(), _latest()
    if position is not None:
        values = ops.convert_to_tensor(values, dtype=dtype)  # it may be a number of Python
    if position is not None and position.keeps_rows:
        name = "loss" if call is None else call.name
        return example_losses.of_rows(
            original, values, sample_weight, mask, reduction, dtype, name=name
        )
    if call is not None:
        padded_timesteps.require_mask(mask, call.y_true, call.name)
        padded_timesteps.require(values, call.y_true, call.name)
    if position is None or position.has_all or call is None or len(values.shape) > 0:
        return original(values, sample_weight, mask, reduction, dtype)
    is_weighted = sample_weight is not None or mask is not None
    if is_weighted and reduction in (None, "none"):
        raise ValueError(
            f"The {call.name} returned one number for the whole batch, which reduction="
            f"{reduction!r} makes one value for each weight or entry of the mask, of examples that "
            f"lie on {position.collectives.num_replicas} replicas. Return one value for each "
            "example, or use another reduction."
        )
    value = ops.convert_to_tensor(_on_all_rows(call, position), dtype=dtype)
    if is_weighted:
        weights, mask = (_weights_of_all(w, position) for w in (sample_weight, mask))
        with position_lib.at(one_device(position)):
            value = original(value, weights, mask, reduction, dtype)
    # The value is weighted by this replica's fraction like any other. Its gradient counts in full,
    # since no other replica has the gradient of these rows.
    fraction = position.fraction(value.dtype)
    whole = value / tf.where(fraction > 0, fraction, tf.ones_like(fraction))
    return whole - tf.stop_gradient(whole - value)


def _update_metric(
    metric: Any, original: Callable[..., Any], y_true: Any, y_pred: Any, sample_weight: Any = None
) -> None:
    """Updates a metric, and remembers how to compute it again on the rows of all replicas."""

    def compute(*rows: Any) -> Any:
        function, options = keras_internals.function_of(metric)
        return function(*rows, **options)

    with _remembered(_Call(compute, y_true, y_pred, f"metric {metric.name!r}")):
        original(metric, y_true, y_pred, sample_weight)


def value_of_metric(values: Any) -> Any:
    """Returns a metric's value for all rows, if it gave one number for a replica's rows.

    Args:
        values: What the metric function returned: one value per row, or a scalar, or a number.

    Returns:
        `values`, unless they are a scalar that a metric function made of targets and outputs.
    """
    position, call = position_lib.current(), _latest()
    if position is not None:
        values = _tensor(values)
    if call is not None:
        padded_timesteps.require(values, call.y_true, call.name)
    if position is None or position.has_all or call is None or len(values.shape) > 0:
        return values
    return _tensor(_on_all_rows(call, position))


def _tensor(values: Any) -> Any:
    # A metric function may return a number of Python, which Keras casts as here.
    return values if hasattr(values, "shape") else tf.convert_to_tensor(values)


@contextlib.contextmanager
def _remembered(call: _Call | None) -> Iterator[None]:
    before = _latest()
    _calls.latest = call
    try:
        yield
    finally:
        _calls.latest = before


def _latest() -> _Call | None:
    return getattr(_calls, "latest", None)


def _on_all_rows(call: _Call, position: Position) -> Any:
    if position.padded_rows is not None:
        padded_rows.refuse(f"The {call.name} makes one number of a whole batch")

    def gathered(value: Any) -> Any:
        if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
            raise ValueError(
                f"The {call.name} makes one number of a whole batch, and the rows of "
                f"{position.collectives.num_replicas} replicas cannot be joined, since they are a "
                f"{type(value).__name__}. Return one value for each example, or use one device."
            )
        return tensor_notes.with_notes(lambda rows: with_own_gradient(rows, position), value)

    y_true, y_pred = (
        keras.tree.map_structure(gathered, rows)
        for rows in (call.y_true, call.y_pred)
    )
    with position_lib.at(one_device(position)), _remembered(None):
        return call.compute(y_true, y_pred)


def one_device(position: Position) -> Position:
    """Returns the position of a replica that has the whole global batch."""
    return Position(position.global_size, position.global_size, 0, collectives.alone())


def _weights_of_all(rows: Any, position: Position) -> Any:
    """Gathers the weights or the mask of all replicas' rows; one number stays what it is."""
    if rows is None or tf.convert_to_tensor(rows).shape.rank == 0:
        return rows
    return with_own_gradient(rows, position)


def with_own_gradient(rows: Any, position: Position) -> tf.Tensor:
    """Gathers the rows of all replicas, in the order of the global batch.

    Args:
        rows: This replica's rows, of any dtype that can be summed.
        position: Where they stand.

    Returns:
        `position.global_size` rows. Gradients flow back only to this replica's own rows.
    """
    rows = tf.convert_to_tensor(rows)[: position.local_size]
    numbers = tf.range(position.global_size)
    is_own = (numbers >= position.offset) & (numbers < position.offset + position.local_size)
    is_own = tf.reshape(is_own, [-1, *[1] * (rows.shape.rank - 1)])
    own = collectives.padded(rows, position.offset, position.global_size)
    return tf.where(is_own, own, all_rows.gathered(rows, position))
