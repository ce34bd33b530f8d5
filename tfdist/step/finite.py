"""Is every gradient finite, and what happens if one is not?

The check looks at the reduced gradients, which are the same on all replicas, so all replicas do the
same. A step with an infinity or a NaN in a gradient leaves the weights and the optimizer unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import share
from tfdist.compat.untraced import outside_of_steps, plain_variable
from tfdist.step.variables import Entry, entries_of, value_of

_NONE = -1
_SEED = "seed_generator_state"  # how Keras names the state of a random stream


class FiniteWatch:
    """Counts the traced steps of a model whose gradients were not finite.

    Args:
        strategy: The strategy that they run on; needed where a step is one program.
        skips: Whether a bad step must not change metrics and moving averages either.
    """

    def __init__(
        self, strategy: tf.distribute.Strategy | None = None, *, skips: bool = False
    ) -> None:
        self._skips = skips
        self._is_inside = strategy is not None and share.is_tpu(strategy)
        scope = strategy if self._is_inside else None  # a program writes to its own device
        self._steps, self._bad_steps = _counter(0, scope), _counter(0, scope)
        self._first_step, self._first_gradient = _counter(_NONE, scope), _counter(_NONE, scope)

    def apply(
        self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> None:
        """Calls `optimizer.apply` where all gradients are finite, in a graph or eagerly."""
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer.apply(gradients, variables)  # skips such a step, and lowers its scale
            return
        present = [(i, gradient) for i, gradient in enumerate(gradients) if gradient is not None]
        are_finite = tf.stack([tf.reduce_all(tf.math.is_finite(_values(g))) for _, g in present])
        is_good = tf.reduce_all(are_finite)
        index = tf.gather([i for i, _ in present], tf.argmin(tf.cast(are_finite, tf.int32)))

        def use() -> tf.Tensor:
            optimizer.apply(gradients, variables)
            return tf.constant(True)

        def note() -> tf.Tensor:
            is_first = tf.equal(self._first_step, _NONE)
            for variable, value in (
                (self._first_step, self._steps), (self._first_gradient, tf.cast(index, tf.int64))
            ):
                variable.assign(tf.where(is_first, value, variable))
            self._bad_steps.assign_add(1)
            return tf.constant(False)

        self._steps.assign_add(1)
        tf.cond(is_good, use, note)

    def undoing(
        self, model: keras.Model, strategy: tf.distribute.Strategy, step: Callable[[Any], None]
    ) -> Callable[[Any], None]:
        """Returns a step that restores metrics and moving averages if it is left out."""
        if self._is_inside:
            return step  # see `undoing_on_replica`

        def undone(batch: Any) -> None:
            parts = [
                part
                for entry in _own_entries(model)
                for part in strategy.experimental_local_results(value_of(entry.variable))
            ]
            before = [tf.identity(part.read_value()) for part in parts]
            bad_steps = tf.identity(self._bad_steps.read_value())
            step(batch)

            def go_back() -> tf.Tensor:
                for part, value in zip(parts, before, strict=True):
                    part.assign(value)
                return tf.constant(False)

            is_good = tf.equal(bad_steps, self._bad_steps.read_value())
            tf.cond(is_good, lambda: tf.constant(True), go_back)

        return undone

    def undoing_on_replica(
        self, model: keras.Model, replica_fn: Callable[[Any], Any]
    ) -> Callable[[Any], Any]:
        """Does the same as `undoing` for a step that is one program, as a function of its rows."""
        if not self._skips:
            return replica_fn

        def undone(data: Any) -> Any:
            variables = [value_of(entry.variable) for entry in _own_entries(model)]
            before = [tf.identity(variable) for variable in variables]
            bad_steps = tf.identity(self._bad_steps)
            result = replica_fn(data)
            is_good = tf.equal(bad_steps, tf.convert_to_tensor(self._bad_steps))
            for variable, value in zip(variables, before, strict=True):
                variable.assign(tf.where(is_good, variable, value))
            return result

        return undone

    def is_well(self) -> tf.Tensor:
        """Tells whether no step was bad since the last `take`; a boolean scalar."""
        return tf.equal(self._bad_steps, 0)

    def take(self) -> tuple[int, int, int] | None:
        """Returns what was found since the last call, and starts over.

        Returns:
            The number of bad steps, how many steps ago the first one was (0 for the last step),
            and the index of its first bad gradient among the variables; None if no step was bad.
        """
        bad_steps = _number(self._bad_steps)
        if not bad_steps:
            return None
        first = _number(self._first_step)
        found = bad_steps, _number(self._steps) - first, _number(self._first_gradient)
        self._bad_steps.assign(0)
        self._first_step.assign(_NONE)
        return found


def _counter(value: int, strategy: tf.distribute.Strategy | None) -> tf.Variable:
    if strategy is None:
        return plain_variable(tf.int64, value=value)

    def in_scope() -> tf.Variable:
        with strategy.scope():
            return tf.Variable(value, dtype=tf.int64, trainable=False)

    return outside_of_steps(in_scope)


def _number(counter: tf.Variable) -> int:
    return int(tf.convert_to_tensor(counter))


def _own_entries(model: keras.Model) -> list[Entry]:
    """Returns the variables that each replica writes itself, except states of random draws."""
    return [
        entry
        for entry in entries_of(model)
        if entry.per_replica in ("sum", "own") and not entry.name.endswith(_SEED)
    ]


def _values(gradient: Any) -> Any:
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
