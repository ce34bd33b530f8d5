"""Which functions of Keras does a step replace while it is traced?

Those that take means over a batch, or draw random numbers for it: applied to one replica's rows
they do not do what they would do for the whole batch.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat.keras_internals import lacking, module

_MODULES = {
    # Called by the trainer, the losses and `compute_loss`; looked up in the module at each call.
    "scale_loss_for_distribution": "keras.src.losses.loss",
    "unscale_loss_for_distribution": "keras.src.losses.loss",
    "reduce_values": "keras.src.losses.loss",
    "apply_mask": "keras.src.losses.loss",
    "Loss.__call__": "keras.src.losses.loss",
    "reduce_weighted_values": "keras.src.losses.loss",
    "MetricsList.update_state": "keras.src.trainers.compile_utils",
    "Layer.add_loss": "keras.src.layers.layer",
    "reduce_to_samplewise_values": "keras.src.metrics.reduction_metrics",
    "MeanMetricWrapper.update_state": "keras.src.metrics.reduction_metrics",
    # The statistics of a synchronized BatchNormalization.
    "_compute_moments_sync": "keras.src.backend.tensorflow.nn",
    "BatchNormalization._moments": "keras.src.layers.normalization.batch_normalization",
    # The drawing functions of the TensorFlow backend, and what they ask for a seed.
    "draw_seed": "keras.src.backend.tensorflow.random",
    "categorical": "keras.src.backend.tensorflow.random",
    "uniform": "keras.src.backend.tensorflow.random",
    "normal": "keras.src.backend.tensorflow.random",
    "dropout": "keras.src.backend.tensorflow.random",
    "randint": "keras.src.backend.tensorflow.random",
    "truncated_normal": "keras.src.backend.tensorflow.random",
    "gamma": "keras.src.backend.tensorflow.random",
    "binomial": "keras.src.backend.tensorflow.random",
    "beta": "keras.src.backend.tensorflow.random",
    "shuffle": "keras.src.backend.tensorflow.random",
}
_replacing = threading.RLock()


def original(name: str) -> Callable[..., Any]:
    """Returns Keras's own function of one of the replaceable names."""
    home, attribute = _home(name)
    if not hasattr(home, attribute):
        raise ImportError(lacking(f"{_MODULES[name]}.{name}"))
    return getattr(home, attribute)


def _home(name: str) -> tuple[Any, str]:
    """Returns the module or class that a replaceable name stands in, and its last part."""
    *classes, attribute = name.split(".")
    home = module(_MODULES[name])
    for part in classes:
        if not hasattr(home, part):
            raise ImportError(lacking(f"{_MODULES[name]}.{part}"))
        home = getattr(home, part)
    return home, attribute


@contextlib.contextmanager
def replaced(functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Replaces Keras's functions of these names by `functions` within a `with` block.

    The block is the tracing of one step. Meanwhile each thread has its own `add_loss` values:
    MirroredStrategy traces each replica in its own thread, and switches between the threads at
    every collective, while a layer has only one list of losses.
    """
    with _replacing, contextlib.ExitStack() as stack:
        for name, function in functions.items():
            stack.callback(setattr, *_home(name), original(name))
            setattr(*_home(name), function)
        for attribute, make in (("_losses", list), ("_loss_ids", set)):
            stack.callback(delattr, keras.layers.Layer, attribute)
            setattr(keras.layers.Layer, attribute, _per_thread(attribute, make))
        yield


@contextlib.contextmanager
def replaced_apply(apply: Callable[..., Any]) -> Iterator[None]:
    """Routes every optimizer's `apply` through `apply(original, optimizer, grads, variables)`."""
    base = module("keras.src.optimizers.base_optimizer").BaseOptimizer
    with _replacing, contextlib.ExitStack() as stack:
        for kind in (base, keras.optimizers.LossScaleOptimizer):
            stack.callback(setattr, kind, "apply", kind.apply)
            kind.apply = _routed(apply, kind.apply)
        yield


@contextlib.contextmanager
def replaced_gradient(gradient: Callable[..., Any]) -> Iterator[None]:
    """Routes every `tape.gradient` through `gradient(original, tape, target, sources, ...)`.

    `tape.jacobian` calls TensorFlow's own: it takes a gradient for each number of its target.
    """
    original_gradient, jacobian = tf.GradientTape.gradient, tf.GradientTape.jacobian
    own = threading.local()

    def method(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
        if getattr(own, "is_jacobian", False):
            return original_gradient(tape, target, sources, *args, **kwargs)
        return gradient(original_gradient, tape, target, sources, *args, **kwargs)

    def of_each(tape: Any, *args: Any, **kwargs: Any) -> Any:
        own.is_jacobian = True
        try:
            return jacobian(tape, *args, **kwargs)
        finally:
            own.is_jacobian = False

    with _replacing:
        tf.GradientTape.gradient, tf.GradientTape.jacobian = method, of_each
        try:
            yield
        finally:
            tf.GradientTape.gradient, tf.GradientTape.jacobian = original_gradient, jacobian


@contextlib.contextmanager
def without_reduction(optimizer: Any) -> Iterator[None]:
    """Makes `optimizer.apply`, called by a replica, update by that replica's own gradients."""
    name = "_all_reduce_sum_gradients"
    if not hasattr(optimizer, name):
        raise ImportError(lacking(f"{type(optimizer).__name__}.{name}"))
    with _replacing:
        vars(optimizer)[name] = list
        try:
            yield
        finally:
            del vars(optimizer)[name]


def _routed(apply: Callable[..., Any], original_apply: Callable[..., Any]) -> Callable[..., Any]:
    def method(optimizer: Any, grads: Any, trainable_variables: Any = None) -> Any:
        return apply(original_apply, optimizer, grads, trainable_variables)

    return method


def _per_thread(attribute: str, make: Callable[[], Any]) -> property:
    values: dict[tuple[int, int], Any] = {}

    def get(layer: Any) -> Any:
        return values.setdefault((id(layer), threading.get_ident()), make())

    def put(layer: Any, value: Any) -> None:  # a layer that is made during the trace
        layer.__dict__[attribute] = value

    return property(get, put)
