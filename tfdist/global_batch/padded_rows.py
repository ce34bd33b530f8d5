"""Which of a replica's rows count, where all batches are padded to one shape?

The first `local_size` of `padded_rows` do. The others are repeated rows; they are not cut, since
the shape has to stay, but set to zero wherever rows are summed. Without padded rows, the functions
here return their arguments unchanged. Code that reduces the rows to one number itself (an
`add_loss`, a loss that returns a scalar, a custom training rule) cannot be masked from outside, and
is refused.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, NoReturn

import keras
import tensorflow as tf

from tfdist.compat import keras_internals, replacing, tensor_notes
from tfdist.global_batch import padded_timesteps
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position

_CURE = (
    "Give full batches alone (a batch size that the number of replicas divides, and .batch(..., "
    "drop_remainder=True) or a number of examples that the batch size divides), or pass "
    "static_shapes=False. With length_buckets no batch counts as full: leave them out."
)
_ROWWISE = (keras.regularizers.L1, keras.regularizers.L2, keras.regularizers.L1L2)
_activity = threading.local()  # counts activity losses that are about to be added


def refuse(what: str) -> NoReturn:
    """Raises a ValueError: something would count rows that only pad the batch."""
    raise ValueError(
        f"{what}, so it would count the rows that only pad a batch to its static shape. {_CURE}"
    )


def _padded_position() -> Position | None:
    position = position_lib.current()
    return None if position is None or position.padded_rows is None else position


def zeroed(value: Any, *, unless_empty: bool = False) -> Any:
    """Sets the entries of rows that do not count to zero (False).

    Args:
        value: A tensor whose first dimension is the rows, or a multiple of them (time folded into
            the batch); None and scalars stay as they are.
        unless_empty: Whether all rows stay if none of them counts.
    """
    position = _padded_position()
    if position is None or value is None or len(value.shape) == 0:
        return value
    value = tf.convert_to_tensor(value)
    counts = _counts(value, position)
    if unless_empty:
        counts |= position.local_size == 0
    counts = tf.reshape(counts, [-1, *[1] * (value.shape.rank - 1)])
    return tf.where(counts, value, tf.zeros((), value.dtype))


def _counts(value: Any, position: Position) -> tf.Tensor:
    """Tells for each entry of the first dimension whether it belongs to a row that counts."""
    rows, size = position.padded_rows or 1, value.shape[0]
    if size is not None and size % rows:
        refuse(f"A tensor of shape {value.shape} does not have the {rows} rows of its batch")
    counts = tf.range(rows) < position.local_size
    if size == rows:
        return counts
    each = (tf.shape(value)[0] if size is None else size) // rows
    return tf.reshape(tf.tile(counts[:, tf.newaxis], [1, each]), [-1 if size is None else size])


def mean_of_counted(mean: Any) -> Any:
    """Turns a mean over all rows, with zeros for padding, into one over those that count."""
    position = _padded_position()
    if position is None:
        return mean
    counted = tf.cast(tf.maximum(position.local_size, 1), mean.dtype)
    return mean * (tf.cast(position.padded_rows, mean.dtype) / counted)


def size_of_counted(size: Any) -> Any:
    """Turns the number of entries of all rows into the number for the rows that count."""
    position = _padded_position()
    if position is None:
        return size
    counted = tf.cast(position.local_size, size.dtype)
    return size * counted / tf.cast(position.padded_rows, size.dtype)


def of_counted(values: Any, sample_weight: Any) -> tuple[Any, Any]:
    """Returns values for a `Mean`, and their weights: 0 where a row does not count."""
    if _padded_position() is None:
        return values, sample_weight
    weight = tf.ones_like(values) if sample_weight is None else sample_weight
    return zeroed(values), zeroed(weight)


def without_static_count(values: Any, sample_weight: Any) -> Any:
    """Drops a sample weight that is only the number of rows, for one of several outputs.

    Keras weights such a loss by that number if the shape shows it, and by 1 if not.
    """
    position = _padded_position()
    if position is not None and position.keeps_rows and isinstance(sample_weight, int):
        return None  # the losses of one output, by example: each counts once
    if position is None or len(values.shape) > 0:
        return sample_weight
    if sample_weight is None:
        refuse("A metric was given one number for a whole batch")
    if isinstance(sample_weight, int) and sample_weight == position.padded_rows:
        return None
    return sample_weight


def regularized(layer: Any, regularizer: Callable[[Any], Any], output: Any) -> Any:
    """Returns an activity regularizer's value for the rows that count."""
    if _padded_position() is None:
        return regularizer(output)
    if type(regularizer) not in _ROWWISE:
        refuse(
            f"The layer {layer.name!r} has an activity regularizer, "
            f"{type(regularizer).__name__}, that may mix examples"
        )
    _activity.losses = getattr(_activity, "losses", 0) + 1
    return regularizer(zeroed(output))


def functions() -> dict[str, Callable[..., Any]]:
    """Returns replacements for the functions that pass rows to metrics, or mix rows."""
    update_state = replacing.original("MetricsList.update_state")
    add_loss = replacing.original("Layer.add_loss")
    shuffle = replacing.original("shuffle")

    def updated(metrics: Any, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        if _padded_position() is None:
            update_state(metrics, y_true, y_pred, sample_weight)
            return
        for metric in metrics.metrics:
            _refuse_own_metric(metric)
            given = sample_weight is not None
            weight = sample_weight if given else _weight_one(metric, y_true, y_pred)
            weight = padded_timesteps.weights(zeroed(weight), y_true)
            metric.update_state(y_true, y_pred, sample_weight=weight)

    def added(layer: Any, loss: Any) -> None:
        position = position_lib.current()
        if position is not None and position.keeps_rows:
            raise ValueError(
                f"The layer {layer.name!r} adds a loss of its own (add_loss), which is the loss of "
                "no single example. Make it a part of the loss that the model is compiled with."
            )
        waiting = getattr(_activity, "losses", 0)
        if _padded_position() is not None and not waiting:
            refuse(f"The layer {layer.name!r} adds a loss of its own (add_loss)")
        _activity.losses = max(waiting - 1, 0)
        add_loss(layer, loss)

    def shuffled(x: Any, axis: int = 0, seed: Any = None) -> Any:
        position = _padded_position()
        if position is not None and axis == 0 and x.shape[0] in (None, position.padded_rows):
            refuse("keras.random.shuffle (as in MixUp and CutMix) mixes the examples of a batch")
        return shuffle(x, axis, seed)

    return {
        "MetricsList.update_state": updated, "Layer.add_loss": added, "shuffle": shuffled,
    }


def _weight_one(metric: Any, y_true: Any, y_pred: Any) -> tf.Tensor:
    """Returns weights of 1, in the shape in which a Keras metric takes row weights."""
    mask = tensor_notes.mask_of(y_pred)
    if isinstance(metric, (keras.metrics.IoU, keras.metrics.MeanIoU)):  # one per entry
        shape = list(y_true.shape)
        if not metric.sparse_y_true:
            del shape[metric.axis]
        return tf.ones(shape, metric.dtype)
    if mask is not None and isinstance(metric, keras.metrics.Mean):
        return tf.ones(mask.shape)  # it is merged with the mask, so it needs the same rank
    # Metrics that count true and false outputs align weights with outputs from the right.
    is_of_rows = isinstance(metric, keras.metrics.Mean)
    return tf.ones([y_pred.shape[0], *[1] * (0 if is_of_rows else max(len(y_pred.shape) - 2, 0))])


def _refuse_own_metric(metric: Any) -> None:
    # whole_batch.py replaces the method of Keras's wrapper of functions while a step is traced.
    if not type(metric).update_state.__module__.startswith(("keras.", "tfdist.")):
        refuse(
            f"The metric {metric.name!r} has an update_state of its own, which may ignore "
            "sample weights"
        )


def refuse_own_rules(model: keras.Model, phase: str, replica_step: Any) -> None:
    """Raises a ValueError for a custom step, which would count the padding.

    Args:
        model: The model.
        phase: "train" or "test".
        replica_step: The user's training rule, or None.
    """
    if phase == "train" and replica_step is not None:
        refuse(f"The training rule {getattr(replica_step, '__qualname__', replica_step)!r} is "
               "your own")
    for method in (f"{phase}_step", "compute_loss", "compute_metrics"):
        if keras_internals.overrides(model, method):
            refuse(f"{type(model).__name__}.{method} is your own")
