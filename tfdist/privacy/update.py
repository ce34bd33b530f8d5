"""What is one private update of the weights?

The clipped gradients of all examples are summed over the replicas, the noise is added to the sum,
once and in double precision, and the result is divided by the number of examples that are expected,
never by the number that came, which is private. Gradients of weight regularizers, which hold no
data, are added behind. Then the optimizer does what it ever does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication import reduction
from tfdist.compat import keras_internals, tf_internals
from tfdist.global_batch import losses_metrics
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position
from tfdist.privacy import ghost, one_by_one, pieces, recording
from tfdist.privacy.draws import Draws
from tfdist.privacy.layer_rules import NoRule
from tfdist.privacy.ruled import ruled_layers
from tfdist.sharding import shards
from tfdist.step import replicas, tpu_step, update
from tfdist.step.finite import FiniteWatch
from tfdist.step.logs import LastLogs, sum_shares
from tfdist.step.replicas import Batch


@dataclasses.dataclass(frozen=True)
class Private:
    """What a private step computes.

    Attributes:
        norm: What the gradient of each example is clipped to.
        expected: Examples of a step in the mean.
        draws: Draws the noise.
        physical: Most examples that are computed at once, on all replicas together; None for all.
    """

    norm: float
    expected: int
    draws: Draws
    physical: int | None = None


def train_rule(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    logs: LastLogs,
    private: Private,
    watch: FiniteWatch | None,
) -> Callable[[Batch], None]:
    """Returns the function that trains the model on one global batch of sampling.py."""
    layers = ruled_layers(model)
    variables = model.trainable_variables
    apply = watch.apply if watch else None

    def step(batch: Batch) -> None:
        number = batch.parts[0][1]
        with recording.listening(layers or ()):
            sums, shares = replicas.run(
                strategy, lambda part: _of_replica(model, layers, private, part), batch
            )
        if parted := shards.of(model.optimizer):
            change = noised_in_parts(variables, private, number)
            parted.update(sums, variables, apply=apply, change=change)
        else:
            update.build(strategy, model.optimizer, variables)
            summed = reduction.sum_gradients(strategy, sums)
            gradients = noised(summed, variables, private, number)
            tpu_step.apply_sums(model.optimizer, gradients, variables, apply=apply)
        logs.keep(sum_shares(strategy, shares))

    return step


def noised(
    sums: Sequence[Any], variables: Sequence[Any], private: Private, number: Any
) -> list[Any]:
    """Returns the gradients that the optimizer gets.

    Args:
        sums: Of all examples' clipped gradients.
        variables: The trainable weights.
        private: What is computed.
        number: Of the step.
    """
    kind = tf.float64 if any(v.dtype == "float64" for v in variables) else tf.float32
    flat = tf.concat([tf.reshape(tf.cast(total, kind), [-1]) for total in sums], 0)
    noisy = tf.numpy_function(
        lambda step, values: private.draws.noised(step, values, private.expected), [number, flat],
        kind, stateful=False,
    )  # fmt: skip
    found = []
    for variable, part in zip(variables, _split(noisy, variables), strict=True):
        gradient = tf.cast(part, variable.dtype)
        if getattr(variable, "regularizer", None) is not None:
            gradient += _of_regularizer(variable)
        found.append(gradient)
    return found


def noised_in_parts(variables: Sequence[Any], private: Private, number: Any) -> shards.Change:
    """Draws the noise of a step; returns what makes gradients of sums that are held in parts.

    All workers draw all of the noise, and of a sum that they hold a part of they take that part.

    Args:
        variables: The trainable weights.
        private: What is computed.
        number: Of the step.
    """
    size = sum(int(np.prod(v.shape)) for v in variables)
    drawn = tf.numpy_function(
        lambda step: private.draws.noise(step, size), [number], tf.float64, stateful=False
    )
    noise = _split(drawn, variables)

    def changed(
        index: int, sums: Sequence[tf.Tensor], parts_of: shards.PartsOf
    ) -> list[tf.Tensor]:
        variable = variables[index]
        found = [
            tf.cast((tf.cast(total, tf.float64) + part) / private.expected, variable.dtype)
            for total, part in zip(sums, parts_of(noise[index]), strict=True)
        ]
        if getattr(variable, "regularizer", None) is None:
            return found
        return [g + r for g, r in zip(found, parts_of(_of_regularizer(variable)), strict=True)]

    return changed


def _split(flat: tf.Tensor, variables: Sequence[Any]) -> list[tf.Tensor]:
    """Returns the numbers of all weights, one after the other, as tensors of their shapes."""
    sizes = [int(np.prod(v.shape)) for v in variables]
    parts = tf.split(tf.ensure_shape(flat, [sum(sizes)]), sizes)
    return [tf.reshape(part, v.shape) for part, v in zip(parts, variables, strict=True)]


def _of_regularizer(variable: Any) -> Any:
    with tf_internals.default_replica_mode(), tf.GradientTape() as tape:
        value = tf.identity(variable.value)
        tape.watch(value)
        loss = variable.regularizer(value)
    return tf.convert_to_tensor(tape.gradient(loss, value))


def outputs_and_losses(
    model: keras.Model, batch: Any, position: Position, *, training: bool = True
) -> tuple[Any, Any]:
    """Returns a model's outputs for a batch, and the loss of each example, `(rows,)`.

    Args:
        model: The model.
        batch: `x`, `(x, y)` or `(x, y, sample_weight)`.
        position: Where its rows stand, if there is no other position now.
        training: Whether the model is called for training.

    Raises:
        ValueError: The losses are none of single examples.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(batch)
    y_pred = keras_internals.call(model, x, training=training)
    here = dataclasses.replace(position_lib.current() or position, keeps_rows=True)
    with position_lib.at(here):
        losses = keras_internals.compiled_loss(model, y, y_pred, sample_weight)
    if losses.shape.rank != 1:
        raise ValueError(
            f"The losses of {model.name!r} make one number of all examples, of which none has a "
            "loss of its own. Make each loss a function, or a class with `call` alone, that "
            "returns one value for each example."
        )
    return y_pred, losses


def _of_replica(
    model: keras.Model, layers: Sequence[Any] | None, private: Private, part: Any
) -> tuple[list[Any], dict[str, Any]]:
    """Returns the sums of this replica's clipped gradients; adds its rows to the metrics."""
    data, number = part
    position = position_lib.current()
    if position is None or position.padded_rows is None:
        raise RuntimeError(
            "A private step was given a batch without a fixed shape. Train with "
            "tfdist.fit(..., privacy=...)."
        )

    def compute(rows: Any, here: Position) -> list[Any]:
        found, y_pred, losses = _of_rows(model, layers, private, rows, position=here, step=number)
        _track(model, rows, y_pred, losses)
        return found

    size = private.physical and -(-private.physical // position.collectives.num_replicas)
    sums = pieces.sums(
        compute, data, model.trainable_variables, position=position, size=size, step=number
    )
    return sums, {}


def _of_rows(
    model: keras.Model, layers: Sequence[Any] | None, private: Private, data: Any, *,
    position: Position, step: Any,
) -> tuple[list[Any], Any, Any]:  # fmt: skip
    """Returns the sums of the rows' clipped gradients, the outputs, and the losses."""
    variables, rows = model.trainable_variables, position.padded_rows or 0
    seen: list[Any] = []

    def losses_of(batch: Any) -> Any:
        seen[:] = outputs_and_losses(model, batch, position)
        return seen[1]

    try:
        if layers is None:
            raise NoRule(model.name)
        sums = ghost.clipped_sums(
            layers, variables, lambda: losses_of(data), rows=rows,
            counts=tf.range(rows) < position.local_size, norm=private.norm,
        )
        y_pred, losses = seen
    except NoRule:
        sums, losses = one_by_one.clipped_sums(
            variables, losses_of, data, position=position, norm=private.norm, step=step
        )
        x, *_ = keras.utils.unpack_x_y_sample_weight(data)
        y_pred = keras_internals.call(model, x, training=True)
    return sums, y_pred, losses


def _track(model: keras.Model, data: Any, y_pred: Any, losses: Any) -> None:
    """Adds the rows to the reported loss, which has the regularizers' too, and to the metrics."""
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    tracker = keras_internals.loss_tracker(model)
    if tracker is not None:
        added = [v.regularizer(v) for v in model.trainable_variables
                 if getattr(v, "regularizer", None) is not None]
        for value in added:
            losses = losses + tf.cast(value, losses.dtype)
        losses_metrics.track_loss(tracker, losses, None)
    model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
