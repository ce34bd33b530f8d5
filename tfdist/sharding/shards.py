"""How does an optimizer update slices of the weights?

A step sums the gradients so that each replica gets its slice of the sum, lets Keras's own optimizer
update the slices that it was built for, and gathers the new weights. What the optimizer computes of
all gradients, a norm to clip by and whether all are finite, is summed over the workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import reduction as reduction_lib
from tfdist.communication import slices as slices_lib
from tfdist.communication.compression import EXACT, Reduction
from tfdist.communication.slices import Slices
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, optimizer_slices, tf_internals
from tfdist.compat.notes import note_of
from tfdist.compat.untraced import outside_of_steps
from tfdist.global_batch import position as position_lib
from tfdist.sharding import allowed, of_all_gradients
from tfdist.sharding.sliced_state import SlicedState
from tfdist.sharding.sliced_weight import SlicedWeight, sliced


class Shards:
    """An optimizer that is built for slices of a model's weights.

    Args:
        model: The model, built and compiled; its optimizer has no variables but its settings.
        strategy: The strategy that it was made under.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy) -> None:
        self._strategy, self._optimizer = strategy, model.optimizer
        self._inner = optimizer_slices.inner_of(model.optimizer)
        self._slices, self._workers = Slices(strategy), Workers(strategy)
        whole = allowed.stays_whole(model, self._slices.parts)
        self._items = [
            SlicedWeight(v, (v,), True) if id(v) in whole
            else outside_of_steps(functools.partial(sliced, v, strategy, self._slices))
            for v in model.trainable_variables
        ]
        self._parts = [part for item in self._items for part in item.parts]
        self._applied: list[SlicedWeight] = []  # those with gradients, while an update is traced
        self._slots: dict[int, tuple[SlicedWeight, str]] = {}
        outside_of_steps(self._build)
        self._states = self._states_of(self._optimizer)
        self._traced = [tf.function(f, autograph=False) for f in (self.refresh, self.publish)]
        self._replace()

    @property
    def states(self) -> list[Any]:
        """All variables of the optimizer, in the order and under the names of whole ones."""
        return self._states

    @property
    def held_bytes(self) -> int:
        """Bytes of the states that a replica of this worker holds."""
        own = [state.parts[0] if isinstance(state, SlicedState) else state for state in self.states]
        return sum(
            tf.as_dtype(one.dtype).size * (tf.TensorShape(one.shape).num_elements() or 0)
            for one in own
        )

    def update(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        *,
        apply: Callable[..., None] | None = None,
        reduction: Reduction = EXACT,
    ) -> None:
        """Does what `step.update.update` does, with each replica's slices."""
        if [id(v) for v in variables] != [id(item.weight) for item in self._items]:
            raise ValueError(
                "The optimizer holds its states in slices, for all trainable weights of the model "
                "that fit(..., sharded_optimizer=True) has trained, and was given others. Compile "
                "the model with a new optimizer."
            )
        sums = self._summed(gradients, reduction)
        self._applied = [i for i, s in zip(self._items, sums, strict=True) if s is not None]
        self.refresh(sums)
        before = tf.identity(self._steps.value)
        with tf_internals.default_replica_mode(), position_lib.at(None):
            self._apply(sums, apply)
        self._settle(before)
        for item in self._sliced():
            item.clear()

    def refresh(self, sums: Sequence[Any] | None = None) -> None:
        """Gives the slices the values that the weights have now; in a step after the sums."""
        for index, item in enumerate(self._items):
            if not item.is_whole:
                after = sums[index] if sums else None
                item.refresh(self._strategy, self._slices, after=after or ())

    def publish(self) -> None:
        """Gives the weights the values of all replicas' slices."""
        items = self._sliced()
        own = [
            [tf.ensure_shape(part.value.read_value(), part.shape) for part in item.parts]
            for item in items
        ]
        sizes = [item.weight.shape.num_elements() for item in items]
        every = self._slices.gathered(own, sizes)
        with tf_internals.default_replica_mode():
            for item, pieces in zip(items, every, strict=True):
                item.weight.assign(slices_lib.whole(pieces, item.weight.shape))

    def around(self, function: Callable[[], None]) -> None:
        """Calls what changes slices outside of a step; every worker has to call it."""
        with tf_internals.default_replica_mode():
            self._traced[0]()
            function()
            self._traced[1]()
        for item in self._sliced():
            item.clear()

    def _build(self) -> None:
        known = {id(part): item for item in self._items for part in item.parts}

        def note(reference: Any, name: str, made: Any) -> None:
            self._slots[id(made)] = known[id(reference)], name

        for item in self._sliced():
            optimizer_slices.as_left_out_of_decay(self._optimizer, item.weight, item.parts)
        optimizer_slices.build(self._optimizer, self._parts, self._strategy, note)

    def _states_of(self, optimizer: Any) -> list[Any]:
        states: list[Any] = []
        parts: dict[tuple[int, str], list[Any]] = {}
        for variable in optimizer.variables:
            item, name = self._slots.get(id(variable), (None, ""))
            if item is None or item.is_whole:
                states.append(variable)
                continue
            key = id(item.weight), name
            parts.setdefault(key, []).append(variable.value)
            if len(parts[key]) == len(item.parts):
                own = parts[key]
                states.append(SlicedState(variable.path, item.weight, own, self._workers))
        return states

    def _replace(self) -> None:
        """Puts what needs whole weights, or all gradients, in the place of Keras's."""
        if self._inner.clipnorm or self._inner.global_clipnorm:
            optimizer_slices.replace_clipping(
                self._inner,
                lambda gradients: of_all_gradients.clipped(
                    self._inner, self._applied, gradients, self._slices
                ),
            )
        if self._inner is not self._optimizer:
            optimizer_slices.replace(
                self._optimizer,
                check_finite=lambda original, gradients: of_all_gradients.are_finite(
                    original(gradients), self._slices
                ),
            )
        if self._inner.use_ema:  # the averages become the weights when training ends
            optimizer_slices.replace(
                self._inner,
                finalize_variable_values=lambda original, weights: self.around(
                    lambda: original(self._parts)
                ),
            )
        for one in {id(o): o for o in (self._optimizer, self._inner)}.values():
            states = self._states if one is self._optimizer else self._states_of(one)
            optimizer_slices.replace(
                one,
                save_own_variables=lambda original, store, states=states: _save(states, store),
                load_own_variables=lambda original, store, states=states: _load(states, store),
            )

    def _sliced(self) -> list[SlicedWeight]:
        return [item for item in self._items if not item.is_whole]

    @property
    def _steps(self) -> Any:
        return keras_internals.settings_of(self._inner)[0]

    def _summed(self, gradients: Sequence[Any], reduction: Reduction) -> list[Any]:
        """Returns for each weight the sums for its parts; None where it has no gradient."""
        sums: list[Any] = [None] * len(self._items)
        present = [i for i, gradient in enumerate(gradients) if gradient is not None]
        whole = [i for i in present if self._items[i].is_whole]
        sliced = [i for i in present if not self._items[i].is_whole]
        for i in sliced:
            first = self._strategy.experimental_local_results(gradients[i])[0]
            if not isinstance(first, tf.Tensor):
                raise ValueError(
                    f"The gradient of {self._items[i].weight.path!r} is rows of a table that is "
                    "not one of a keras.layers.Embedding, and rows cannot be cut into slices. Use "
                    "that layer, or leave sharded_optimizer out."
                )
        of_whole = reduction_lib.sum_gradients(
            self._strategy, [gradients[i] for i in whole], reduction
        )
        for i, total in zip(whole, of_whole, strict=True):
            sums[i] = [total]
        known = [self._of_known_shape(gradients[i], self._items[i].weight) for i in sliced]
        of_sliced = self._slices.summed(known, reduction)
        for i, parts in zip(sliced, of_sliced, strict=True):
            sums[i] = parts
        return sums

    def _of_known_shape(self, gradient: Any, weight: Any) -> Any:
        """Returns a gradient whose shape is known, which a trace need not see."""
        local = self._strategy.experimental_local_results(gradient)
        if local[0].shape.is_fully_defined():
            return gradient
        parts = []
        for part in local:
            with tf.device(part.device):
                parts.append(tf.ensure_shape(part, weight.shape))
        return reduction_lib.per_replica(self._strategy, parts)

    def _apply(self, sums: Sequence[Any], apply: Callable[..., None] | None) -> None:
        optimizer = self._optimizer
        flat = [
            None if own is None else own[number]
            for item, own in zip(self._items, sums, strict=True)
            for number in range(len(item.parts))
        ]
        if apply is None or optimizer is not self._inner:
            optimizer.apply(flat, self._parts)
            return
        # Whoever looks at the gradients, and counts them by the weights, gets a number for each.
        flags = of_all_gradients.flags(sums, self._slices)
        apply(_Applying(lambda: optimizer.apply(flat, self._parts)), flags,
              [item.weight for item in self._items])

    def _settle(self, before: tf.Tensor) -> None:
        """Gives the weights what an update has made, and constrains them."""
        steps = self._inner.gradient_accumulation_steps
        if not steps or self._inner.ema_overwrite_frequency:
            self.publish()
        else:
            is_due = tf.equal(self._steps.value % steps, 0)
            tf.cond(is_due, lambda: _true(self.publish), lambda: tf.constant(False))
        weights = [item.weight for item in self._applied if not item.is_whole]
        if held := [weight for weight in weights if weight.constraint is not None]:
            is_applied = tf.not_equal(before, self._steps.value)
            tf.cond(is_applied, lambda: _true(lambda: _constrain(held)), lambda: tf.constant(False))


class _Applying:
    """Stands in for an optimizer whose `apply` knows already what it applies."""

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function

    def apply(self, gradients: Any, variables: Any) -> None:
        """Applies."""
        self._function()


def of(optimizer: Any) -> Shards | None:
    """Returns the shards of an optimizer that holds its states in slices; else None."""
    return None if optimizer is None else note_of(optimizer, "shards")


def states_of(optimizer: Any) -> Sequence[Any]:
    """Returns an optimizer's variables; a `SlicedState` for what the replicas hold in slices."""
    held = of(optimizer)
    return optimizer.variables if held is None else held.states


def _true(function: Callable[[], None]) -> tf.Tensor:
    function()
    return tf.constant(True)


def _constrain(weights: Sequence[Any]) -> None:
    with tf_internals.default_replica_mode():
        for weight in weights:
            weight.assign(weight.constraint(weight))


def _save(states: Sequence[Any], store: Any) -> None:
    for number, state in enumerate(states):
        store[str(number)] = state.numpy()


def _load(states: Sequence[Any], store: Any) -> None:
    if len(store.keys()) != len(states):
        raise ValueError(
            f"The file holds {len(store.keys())} variables of an optimizer, and this one has "
            f"{len(states)}. Load the file of a model that was compiled alike."
        )
    for number, state in enumerate(states):
        state.assign(store[str(number)])
