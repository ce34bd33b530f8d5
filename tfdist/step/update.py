"""What is one update? Forward and backward on each replica, one reduction, one apply.

There is no loop here, only the arithmetic of a step: `train_step`, `test_step` and `predict_step`
run a compiled Keras model on one global batch.

The order inside an update: gradients of the replicas' shares are summed over all replicas of all
workers, and only then checked for infinities, unscaled, clipped, accumulated and applied, by
Keras's own optimizer, as on one device. Every replica then holds the same variables. On a TPU all
of it happens in one program, see tpu_step.py; elsewhere the sum and the update use what the
replicas return.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import reduction as reduction_lib
from tfdist.communication import share
from tfdist.communication.compression import EXACT, Reduction
from tfdist.compat import keras_internals
from tfdist.compat.untraced import outside_of_steps
from tfdist.global_batch import losses_metrics, padded_timesteps, tracing
from tfdist.global_batch import position as position_lib
from tfdist.sharding import shards
from tfdist.step import error_feedback, lookups, replicas, tpu_step
from tfdist.step.jit_compile import compiled
from tfdist.step.logs import Logs, extra_logs, sum_shares
from tfdist.step.own_code import own_reductions
from tfdist.step.replicas import Batch
from tfdist.step.tpu_step import Apply


def train_step(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    batch: Batch,
    *,
    apply: Apply | None = None,
    reduction: Reduction = EXACT,
) -> Logs:
    """Updates a compiled model on one global batch, in cross-replica context.

    Args:
        model: A compiled model whose variables, and whose optimizer's, exist.
        strategy: The strategy that the model was made under.
        batch: One global batch.
        apply: Applies gradients with an optimizer, instead of `optimizer.apply`.
        reduction: How gradients travel between replicas.

    Returns:
        What an overridden `compute_metrics` returned besides the results of the model's metrics.
    """
    if share.is_tpu(strategy):
        whole = train_on_replica(model, apply=apply, reduction=reduction)
        return tpu_step.run(strategy, whole, batch)
    backward = backward_of(model, separates=True)
    gradients, logs = replicas.run(strategy, backward, batch, keeps_sizes=asks_for_sizes(model))
    update(
        strategy, model.optimizer, gradients, model.trainable_variables, apply=apply,
        reduction=reduction, residuals=error_feedback.residuals_of(model),
    )
    return sum_shares(strategy, logs)


def test_step(model: keras.Model, strategy: tf.distribute.Strategy, batch: Batch) -> Logs:
    """Adds one global batch to the model's loss and metrics; see `train_step`."""
    return run_and_sum(
        strategy, lambda data: _observe(model, data, training=False)[1], batch,
        keeps_sizes=asks_for_sizes(model),
    )


def asks_for_sizes(model: keras.Model) -> bool:
    """Tells whether the model's own code may ask how many rows a batch has.

    A layer cannot: Keras builds it with an open number of rows.
    """
    own = ("compute_loss", "compute_metrics", "predict_step")
    return any(keras_internals.overrides(model, name) for name in own)


def train_on_replica(
    model: keras.Model, *, apply: Apply | None = None, reduction: Reduction = EXACT
) -> Callable[[Any], Logs]:
    """Returns `train_step` as a function of one replica's rows, returning its shares of logs."""

    def train(data: Any) -> Logs:
        gradients, logs = _backward(model, data, separates=True)
        tpu_step.update(
            model.optimizer, gradients, model.trainable_variables, apply=apply, reduction=reduction
        )
        return logs

    return train


def run_and_sum(
    strategy: tf.distribute.Strategy,
    replica_fn: Callable[[Any], Logs],
    batch: Batch,
    *,
    reduces_losses: bool = True,
    keeps_sizes: bool = False,
) -> Logs:
    """Runs a function on each replica's rows and sums the shares of logs that it returns."""
    if share.is_tpu(strategy):
        return tpu_step.run(strategy, replica_fn, batch, reduces_losses=reduces_losses)
    shares = replicas.run(
        strategy, replica_fn, batch, reduces_losses=reduces_losses, keeps_sizes=keeps_sizes
    )
    return sum_shares(strategy, shares)


def predict_step(
    model: keras.Model, strategy: tf.distribute.Strategy, batch: Batch, *, of_all: bool = False
) -> Any:
    """Returns the model's outputs for one global batch, in input order, on every worker.

    If the batch has `sizes`, a worker gets only the outputs for its own rows, unless `of_all`.
    With `jit_compile=True` XLA compiles what a replica computes.
    """
    is_compiled = model.jit_compile and not model.run_eagerly and not share.is_tpu(strategy)
    forward = compiled(model.predict_step) if is_compiled else model.predict_step
    outputs = replicas.run(
        strategy, lambda data: tracing.counted(forward(data)), batch,
        keeps_sizes=asks_for_sizes(model), gives_rows=True,
    )
    if batch.is_whole:
        return keras.tree.map_structure(
            lambda rows: strategy.experimental_local_results(rows)[0], outputs
        )

    # A TPU cannot cut rows whose number is not known at compile time.
    on_host = tf.device("/CPU:0") if share.is_tpu(strategy) else contextlib.nullcontext()

    def joined(rows: Any) -> Any:
        only_own = batch.sizes is not None and not of_all
        rows = replicas.gather_rows(strategy, rows, only_own=only_own)
        return replicas.without_padding(rows, batch, strategy.num_replicas_in_sync)

    with on_host:
        return keras.tree.map_structure(joined, outputs)


def update(
    strategy: tf.distribute.Strategy,
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    variables: Sequence[Any],
    *,
    apply: Apply | None = None,
    reduction: Reduction = EXACT,
    residuals: Sequence[Any] = (),
) -> None:
    """Sums the replicas' gradients and applies them once, in cross-replica context."""
    if not variables:
        return
    if sliced := shards.of(optimizer):
        sliced.update(gradients, variables, apply=apply, reduction=reduction)
        return
    build(strategy, optimizer, variables)
    summed = reduction_lib.sum_gradients(strategy, gradients, reduction, residuals=residuals)
    tpu_step.apply_sums(optimizer, summed, variables, apply=apply)


def build(strategy: tf.distribute.Strategy, optimizer: Any, variables: Sequence[Any]) -> None:
    """Creates an optimizer's variables if it has none yet, also while a step is traced."""

    def in_scope() -> None:
        with strategy.scope():
            optimizer.build(variables)

    if not optimizer.built:
        outside_of_steps(in_scope)


def scaled(gradient: Any, factor: Any) -> Any:
    """Returns a gradient, rows of an embedding or None times a scalar."""
    if gradient is None:
        return None
    if isinstance(gradient, tf.IndexedSlices):
        values = gradient.values * factor
        return tf.IndexedSlices(values, gradient.indices, gradient.dense_shape)
    return gradient * factor


def _observe(model: keras.Model, data: Any, *, training: bool) -> tuple[Any, Logs]:
    """Computes the loss of a replica's rows; adds it and the rows to the model's metrics."""

    def once(data: Any) -> tuple[Any, Logs]:
        return _loss_and_metrics(model, data, training=training)

    observe: Callable[[Any], tuple[Any, Logs]] = once
    if own_reductions(model) or _has_ctc(model):
        # For zero rows, the user's code may give NaN, in its value or its gradient, and CTC fails.
        observe = tracing.undoing_filler(model, once)
    return observe(data)


def _has_ctc(model: keras.Model) -> bool:
    losses = [one for one in keras.tree.flatten(getattr(model, "loss", None)) if one is not None]
    found = map(keras.losses.get, losses)
    return any(isinstance(one, keras.losses.CTC) or one is keras.losses.ctc for one in found)


def _loss_and_metrics(model: keras.Model, data: Any, *, training: bool) -> tuple[Any, Logs]:
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
    y_pred = keras_internals.call(model, x, training=training)
    padded_timesteps.masked(keras.tree.flatten(y_pred))
    x, y, y_pred, sample_weight = tracing.counted((x, y, y_pred, sample_weight))
    loss = keras_internals.compute_loss(
        model, x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, training=training
    )
    tracker = keras_internals.loss_tracker(model)
    if tracker is not None:
        losses_metrics.track_loss(tracker, loss, _rows_that_count(x))
    returned = model.compute_metrics(x, y, y_pred, sample_weight=sample_weight)
    is_own = keras_internals.overrides(model, "compute_metrics")
    return loss, extra_logs(model, returned) if is_own else {}


def _rows_that_count(x: Any) -> Any:
    position = position_lib.current()
    is_padded = position is not None and position.padded_rows is not None
    return position.local_size if position is not None and is_padded else tracing.num_rows(x)


def _backward(
    model: keras.Model, data: Any, *, separates: bool = False
) -> tuple[list[Any], Logs]:
    """Returns the gradients of this replica's share of the loss, with the optimizer's scale."""
    variables = [variable.value for variable in model.trainable_variables]
    with tf.GradientTape() as tape:
        loss, logs = _observe(model, data, training=True)
        scaled = model.optimizer.scale_loss(losses_metrics.mean_of_rows(loss))
    gradients = tape.gradient(scaled, variables)
    if separates and tf.executing_eagerly():
        gradients = lookups.separated_eagerly(
            gradients, model=model, traced=lambda rows: _backward(model, rows)[0], data=data
        )
    elif separates:
        gradients = lookups.separated(gradients, data)
    return gradients, logs


def backward_of(
    model: keras.Model, *, separates: bool = False
) -> Callable[[Any], tuple[list[Any], Logs]]:
    """Returns a function that returns a replica's gradients, and its shares of logs.

    With `compile(jit_compile=True)`, XLA compiles each replica's forward and backward pass, and the
    reduction stays outside.

    Args:
        model: A compiled model.
        separates: Whether to separate lookups for `reduction.sum_gradients`, which adds what was
            looked up once for the batch; otherwise the gradients stay as they are.
    """

    def backward(data: Any) -> tuple[list[Any], Logs]:
        return _backward(model, data, separates=separates)

    if not model.jit_compile or model.run_eagerly:
        return backward
    _refuse_collectives(model)
    run = tracing.undoing_filler(model, compiled(backward))

    def run_and_cut(data: Any) -> tuple[list[Any], Logs]:
        gradients, logs = run(data)
        return lookups.without_filler(gradients) if separates else gradients, logs

    return run_and_cut


def _refuse_collectives(model: keras.Model) -> None:
    strategy = model.distribute_strategy
    layers = [layer for layer in keras_internals.flat_layers(model)
              if getattr(layer, "synchronized", False)]
    if layers and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            f"jit_compile=True cannot compile {[layer.name for layer in layers]}, whose statistics "
            f"are summed over {strategy.num_replicas_in_sync} replicas inside the step, where XLA "
            "allows no collective. Compile with jit_compile=False, or use another normalization."
        )
