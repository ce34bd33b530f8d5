"""Which code of a model is not Keras's, so that nobody knows what it means for a part of a batch?

Keras's own layers, losses and metrics are known: global_batch/ gives them the meaning of the whole
batch. Any other code may take a sum, compare examples with each other, or write down what it saw.
Whether it does cannot be read off; that the code is there, can.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfdist.compat import keras_internals

_KNOWN = ("keras", "tensorflow", "tfdist")
_OF_OUTPUTS = ("compute_loss", "compute_metrics")
_OF_A_LAYER = ("call", "__call__")
_OF_A_LOSS = ("call", "__call__")
_OF_A_METRIC = ("update_state", "result", "__call__")
# Operations in a functional model that do the same with each of its entries.
_OF_ENTRIES = (
    "Abs", "Absolute", "Add", "AddN", "Cast", "Divide", "Elu", "Equal", "Exp", "Gelu", "LeakyRelu",
    "Log", "LogSoftmax", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum", "Minimum", "Multiply",
    "Negative", "NotEqual", "Power", "Relu", "Sigmoid", "Silu", "Softplus", "Sqrt", "Square",
    "Subtract", "Tanh", "TrueDivide",
)  # fmt: skip


def own_code(model: keras.Model, *, step: str = "train_step") -> list[str]:
    """Names the code of a compiled model that Keras did not write, and that sees rows of a batch.

    Regularizers of weights, constraints, initializers and optimizers see no rows, and do not count.

    Args:
        model: The model, built.
        step: "train_step", "test_step" or "predict_step", of which the last reduces nothing.

    Returns:
        A name for each piece, such as "Encoder.train_step"; [] for Keras's own parts alone.
    """
    own_step = [f"{type(model).__name__}.{step}"] if keras_internals.overrides(model, step) else []
    reductions = [] if step == "predict_step" else own_reductions(model)
    return list(dict.fromkeys([*own_step, *reductions, *_of_layers(model)]))


def own_reductions(model: keras.Model) -> list[str]:
    """Names the code of a compiled model that makes numbers of a batch's outputs, and no layer."""
    kind, overrides = type(model).__name__, keras_internals.overrides
    steps = [f"{kind}.{name}" for name in _OF_OUTPUTS if overrides(model, name)]
    return [*steps, *_losses(model), *_metrics(model)]


def own_code_of_gradients(model: keras.Model) -> list[str]:
    """Names the code of a compiled model that Keras did not write, and that gradients depend on."""
    steps = [name for name in ("train_step", "compute_loss") if keras_internals.overrides(
        model, name)]
    return [*(f"{type(model).__name__}.{name}" for name in steps), *_of_layers(model),
            *_losses(model)]


def _of_layers(model: keras.Model) -> Iterator[str]:
    for layer in keras_internals.flat_layers(model):
        if isinstance(layer, keras.layers.Lambda):
            yield f"the Lambda {layer.name!r}"
        yield from _own_methods(layer, _OF_A_LAYER)
        for attribute in ("activation", "activity_regularizer"):
            function = getattr(layer, attribute, None)
            if function is not None and not _is_known(function):
                yield f"the {attribute} of {layer.name!r}"
        for operation in getattr(layer, "operations", ()):
            kind = type(operation).__name__
            if not isinstance(operation, keras.layers.Layer) and kind not in _OF_ENTRIES:
                yield f"the operation {operation.name!r} of {layer.name!r}"


def _losses(model: keras.Model) -> Iterator[str]:
    for loss in keras.tree.flatten(getattr(model, "loss", None)):
        if isinstance(loss, keras.losses.Loss):
            yield from _own_methods(loss, _OF_A_LOSS)
            function = getattr(loss, "fn", None)
            if function is not None and not _is_known(function):
                yield f"the loss {_name(function)}"
        elif callable(loss) and not _is_known(loss):
            yield f"the loss {_name(loss)}"


def _metrics(model: keras.Model) -> Iterator[str]:
    for metric in all_metrics(model):
        yield from _own_methods(metric, _OF_A_METRIC)
        if isinstance(metric, keras.metrics.MeanMetricWrapper):
            function, _ = keras_internals.function_of(metric)
            if not _is_known(function):
                yield f"the metric {_name(function)}"


def all_metrics(model: keras.Model) -> list[Any]:
    """Returns the metrics of a model, those that `compile` was given one by one."""
    # What Keras wraps the metrics of `compile` into has a list of them.
    return [metric for one in model.metrics for metric in getattr(one, "metrics", [one])]


def _own_methods(owner: Any, names: tuple[str, ...]) -> Iterator[str]:
    """Yields those methods of these names that a class, or the object itself, brings."""
    kind = type(owner)
    for name in names:
        home = next((c for c in kind.__mro__ if name in vars(c)), None)
        is_own = home is not None and not _is_of_known(home.__module__)
        if name in vars(owner):  # preflight puts a function there that calls the method
            is_own = is_own or not _is_known(vars(owner)[name])
        if is_own:
            yield f"{kind.__name__}.{name}"


def _is_known(function: Callable[..., Any]) -> bool:
    while isinstance(function, functools.partial):
        function = function.func
    named = function if hasattr(function, "__qualname__") else type(function)
    return _is_of_known(getattr(named, "__module__", None) or "")


def _is_of_known(module: str) -> bool:
    return module.partition(".")[0] in (*_KNOWN, "builtins")


def _name(function: Any) -> str:
    return repr(getattr(function, "__name__", type(function).__name__))
