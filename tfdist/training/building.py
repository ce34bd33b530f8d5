"""When are a model's variables created, and by what?

Before the first step, since TensorFlow creates none inside a step of several replicas. Keras's own
loop on one device creates them while it traces its step, so a model needs nothing but that step: no
`call`, no `(x, y)`. Here a step is traced on trial, for one replica and never run, and creates what
it creates on one device. Where Keras's own step trains a model, its loss and its metrics, Keras's
symbolic build does the same and is faster.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat import keras_internals, optimizer_slices, replacing, tf_internals
from tfdist.compat.untraced import outside_of_steps
from tfdist.data.source import Source
from tfdist.global_batch import row_losses, unsplit_layers
from tfdist.sharding import shards
from tfdist.step import update
from tfdist.step.variables import optimizers_of
from tfdist.strategy import factory


def build(
    model: Any, strategy: tf.distribute.Strategy, spec: Any, *, method: str = "train_step",
    builds_optimizer: bool = True,
) -> None:
    """Creates all variables that a step needs.

    Args:
        model: A model, compiled unless it only predicts.
        strategy: The strategy that it was made under.
        spec: Structure of tensor specs of one replica's part of a batch.
        method: The step: "train_step", "test_step" or "predict_step".
        builds_optimizer: Whether the optimizer is built for whole weights. It may be anyway.

    Raises:
        ValueError: The optimizer was made outside the scope of the strategy, or replicas cannot
            train the model.
    """
    is_compiled = model.compiled
    if is_compiled and shards.of(model.optimizer) is None:
        states = getattr(model.optimizer, "variables", [])
        factory.refuse_variables_outside(strategy, states)
    is_own = keras_internals.overrides(model, method)
    if is_own or method == "predict_step" or not _is_dense(spec):
        if any(_unbuilt(model, method)):
            _try(model, strategy, method, spec)
        optimizer = model.optimizer if is_compiled else None
        if method == "train_step" and optimizer is not None:
            update.build(strategy, optimizer, model.trainable_variables)
    elif is_compiled:
        unbuilt = optimizer_slices.not_built_by_keras(model.optimizer)
        with strategy.scope(), contextlib.nullcontext() if builds_optimizer else unbuilt:
            keras_internals.symbolic_build(model, spec)
    if method == "train_step":
        unsplit_layers.refuse(model, strategy.num_replicas_in_sync)


def spec_of(source: Source, model: Any, *, method: str) -> Any:
    """Returns the specs of one replica's part of a batch, as the model's step will see them.

    Keras's own step sees an open number of rows. A step of the model's own may ask for the number.
    """
    if source.padding is not None or not keras_internals.overrides(model, method):
        return source.spec
    return source.stream(0, 0).element_spec[1][0]


def _unbuilt(model: Any, method: str) -> Iterator[bool]:
    """Yields for each part of a model whether the step may have to create something in it."""
    for layer in keras_internals.flat_layers(model):
        yield not layer.built and (layer is not model or _has_call(model))
    yield method != "predict_step" and keras_internals.has_unbuilt_metrics(model)
    if method == "train_step":  # further optimizers, which a checkpoint may restore
        others = (o for name, o in optimizers_of(model).items() if name != "optimizer")
        yield any(not optimizer.built for optimizer in others)


def _is_dense(spec: Any) -> bool:
    """Tells whether Keras's symbolic build can handle the tensors."""
    return all(isinstance(leaf, (tf.TensorSpec, type(None))) for leaf in keras.tree.flatten(spec))


def _has_call(model: Any) -> bool:
    return type(model).call not in (keras.Model.call, keras.layers.Layer.call)


def _try(model: Any, strategy: tf.distribute.Strategy, method: str, spec: Any) -> None:
    """Traces a step for one replica, without its backward pass and its updates."""

    def create(next_creator: Any, **kwargs: Any) -> tf.Variable:
        del next_creator
        known = inspect.signature(tf.Variable.__init__).parameters
        given = {name: value for name, value in kwargs.items() if name in known}

        def in_scope() -> tf.Variable:
            with strategy.scope():
                return tf.Variable(**given)

        return outside_of_steps(in_scope)

    def only_build(original: Any, optimizer: Any, grads: Any, variables: Any = None) -> None:
        del original, grads
        if variables is not None:
            update.build(strategy, optimizer, list(variables))

    def step(data: Any) -> None:
        getattr(model, method)(data)

    with (
        tf_internals.default_replica_mode(),
        tf.variable_creator_scope(create),
        replacing.replaced_apply(only_build),
        replacing.replaced_gradient(_zeros),
    ):
        tf.function(step, autograph=False).get_concrete_function(spec)


def _zeros(original: Any, tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
    """Returns zeros for the gradients of variables, and others as they are."""
    if not row_losses.are_variables(sources):
        return original(tape, target, sources, *args, **kwargs)
    return keras.tree.map_structure(lambda one: tf.zeros(one.shape, one.dtype), sources)
