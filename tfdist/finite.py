"""Is every gradient a number, and what is done where one is not?

The reduced gradients are looked at, which are the same on all replicas, so all do the same. A step
with a gradient that is infinite or not a number leaves the weights and the optimizer as they were.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist import state
from tfdist.outside import plain_variable

_NONE = -1
_SEEDS = tf.uint32  # the type of Keras's random streams, and of nothing else


class FiniteWatch:
    """What the traced steps of a model have found."""

    def __init__(self) -> None:
        self._steps, self._bad_steps = plain_variable(tf.int64), plain_variable(tf.int64)
        self._first_step = plain_variable(tf.int64, value=_NONE)
        self._first_gradient = plain_variable(tf.int64, value=_NONE)

    def apply(
        self, optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]
    ) -> None:
        """Calls `optimizer.apply` where all gradients are finite, in a graph or eagerly."""
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            optimizer.apply(gradients, variables)  # skips such a step itself, and learns from it
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
        """Returns a step that, where it is left out, changes no metric or moving average either."""

        def undone(batch: Any) -> None:
            parts = [
                part
                for entry in state.entries_of(model)
                if entry.per_replica and tf.as_dtype(entry.variable.dtype) != _SEEDS
                for part in strategy.experimental_local_results(state.value_of(entry.variable))
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

    def is_well(self) -> tf.Tensor:
        """Tells whether no step was bad since `take`; a boolean scalar."""
        return tf.equal(self._bad_steps, 0)

    def take(self) -> tuple[int, int, int] | None:
        """Returns what was found since it was last asked, and begins anew.

        Returns:
            The number of bad steps, how many steps ago the first one was (0 for the last step),
            and the place of its first bad gradient among the variables; None where all was well.
        """
        bad_steps = int(self._bad_steps)
        if not bad_steps:
            return None
        found = bad_steps, int(self._steps - self._first_step), int(self._first_gradient)
        self._bad_steps.assign(0)
        self._first_step.assign(_NONE)
        return found


def _values(gradient: Any) -> Any:
    return gradient.values if isinstance(gradient, tf.IndexedSlices) else gradient
