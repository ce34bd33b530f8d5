"""How does one of Keras's optimizers come to update parts of the weights, instead of the weights?

It is built for parts, slices or some whole ones, each of which stands in for its weight: with its
name, and without its constraint, which is for the whole. What looks at all of the gradients at
once, or at all of the weights, is replaced on the optimizer itself, since it would see one
replica's parts alone.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat.keras_internals import settings_of

_REPLACED = (
    "_clip_gradients", "check_finite", "finalize_variable_values",
    "save_own_variables", "load_own_variables",
)  # fmt: skip


class Placement:
    """Stands in for the strategy of an optimizer that has parts, and whole weights beside them.

    A part is on one device, and no strategy knows of it; a whole weight is mirrored.

    Args:
        strategy: The strategy of the whole weights.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy = strategy
        self.extended = self  # TensorFlow's strategies have these methods there

    @contextlib.contextmanager
    def colocate_vars_with(self, variable: Any) -> Iterator[None]:
        """Creates the variables of a block where another one is."""
        if not isinstance(variable, tf.distribute.DistributedValues):
            with tf.device(variable.device):
                yield
            return
        with self._strategy.scope(), self._strategy.extended.colocate_vars_with(variable):
            yield

    def update(
        self, variable: Any, function: Callable[..., Any], args: Any = (), kwargs: Any = None,
        group: bool = True,
    ) -> Any:
        """Calls a function with a variable, on its device or on each of its devices."""
        if isinstance(variable, tf.distribute.DistributedValues):
            return self._strategy.extended.update(variable, function, args, kwargs, group)
        with tf.device(variable.device):
            return function(variable, *args, **(kwargs or {}))


def inner_of(optimizer: Any) -> Any:
    """Returns the optimizer that updates: that in a LossScaleOptimizer, or itself."""
    is_outer = isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
    return optimizer.inner_optimizer if is_outer else optimizer


def stand_in(variable: Any, value: tf.Variable, *, shape: tuple[int, ...]) -> Any:
    """Returns a Keras variable with another one's name and path, and another value.

    Args:
        variable: The other one.
        value: Its value.
        shape: The shape that it shows.
    """
    part = copy.copy(variable)
    part._value, part._constraint = value, None
    part._shape, part._ndim = shape, len(shape)
    return part


def empty(variable: Any) -> None:
    """Leaves a Keras variable a value without a number, of its rank."""
    with tf.device(variable.value.device):
        variable._value = tf.Variable(
            tf.zeros([0] * len(variable.shape), variable.dtype), trainable=False
        )
    show_shape(variable)


def show_shape(variable: Any) -> None:
    """Lets a Keras variable show the shape that its value has."""
    variable._shape = tuple(variable.value.shape)


class _Weights(list[Any]):
    """Weights, of which it is known which one an optimizer makes states for, as it goes through."""

    current: Any = None

    def __iter__(self) -> Iterator[Any]:
        for self.current in super().__iter__():
            yield self.current
        self.current = None


def build(
    optimizer: Any,
    weights: Sequence[Any],
    strategy: tf.distribute.Strategy,
    note: Callable[[Any, str, Any], None],
) -> None:
    """Builds an optimizer for parts of weights, and for those that stay whole; outside of a scope.

    Args:
        optimizer: An optimizer without variables but its settings.
        weights: Parts and whole weights, in the order of the model.
        strategy: The strategy of the model.
        note: Takes each state's reference among `weights`, its name and its variable, as soon as
            it is made.
    """
    inner = inner_of(optimizer)
    own, placement, gone_through = vars(inner), Placement(strategy), _Weights(weights)
    own["_distribution_strategy"] = placement
    original = inner.add_variable

    def noting(*args: Any, **kwargs: Any) -> Any:
        weight = gone_through.current
        if weight is None:
            return original(*args, **kwargs)
        with placement.colocate_vars_with(weight.value):
            made = original(*args, **kwargs)
        note(weight, kwargs.get("name") or "var", made)
        return made

    own["add_variable"] = noting
    inner.build(gone_through)
    del own["add_variable"]
    if optimizer is not inner:
        with strategy.scope():
            optimizer.build(list(weights))  # its own counters; the inner one is built


def as_left_out_of_decay(optimizer: Any, whole: Any, parts: Sequence[Any]) -> None:
    """Leaves parts out of weight decay where their weight was left out by itself."""
    inner = inner_of(optimizer)
    left_out = getattr(inner, "_exclude_from_weight_decay", None)
    if left_out and inner._var_key(whole) in left_out:
        left_out.update(inner._var_key(part) for part in parts)


def replace(optimizer: Any, **functions: Callable[..., Any]) -> None:
    """Gives an optimizer methods of its own, until `take_apart`.

    Args:
        optimizer: The optimizer.
        **functions: By the names of the methods, of which each takes the original one first.
    """
    for name, function in functions.items():
        vars(optimizer)[name] = _bound(function, getattr(optimizer, name))


def replace_clipping(optimizer: Any, function: Callable[[Sequence[Any]], list[Any]]) -> None:
    """Lets an optimizer clip all gradients that it is about to apply by a function."""
    vars(inner_of(optimizer))["_clip_gradients"] = function


def take_apart(optimizer: Any, strategy: tf.distribute.Strategy) -> None:
    """Removes an optimizer's variables but its settings, and all that was replaced on it."""
    for one in {id(o): o for o in (optimizer, inner_of(optimizer))}.values():
        own = vars(one)
        for name in _REPLACED:
            own.pop(name, None)
        kept = {id(variable) for variable in settings_of(one)}
        for variable in [v for v in own["_variables"] if id(v) not in kept]:
            one._untrack_variable(variable)
        own["_distribution_strategy"], own["_trainable_variables_indices"] = strategy, {}
        own["built"] = False


@contextlib.contextmanager
def not_built_by_keras(optimizer: Any) -> Iterator[None]:
    """Keeps Keras from building an optimizer within a `with` block, where it is not built yet."""
    if optimizer.built:
        yield
        return
    vars(optimizer)["built"] = True
    try:
        yield
    finally:
        vars(optimizer)["built"] = False


@contextlib.contextmanager
def swapping(
    callbacks: Sequence[Any], around: Callable[[Callable[[], None]], None]
) -> Iterator[None]:
    """Calls what `SwapEMAWeights` does to an optimizer through `around`, within a `with` block."""
    with contextlib.ExitStack() as stack:
        for callback in callbacks:
            if isinstance(callback, keras.callbacks.SwapEMAWeights):
                name = "_apply_to_ema_optimizers"
                vars(callback)[name] = _around(around, getattr(callback, name))
                stack.callback(vars(callback).pop, name)
        yield


def _around(around: Callable[[Callable[[], None]], None], original: Any) -> Callable[..., None]:
    return lambda *args: around(lambda: original(*args))


def _bound(function: Callable[..., Any], original: Any) -> Callable[..., Any]:
    return lambda *args, **kwargs: function(original, *args, **kwargs)
