"""How does an optimizer update parts of the weights, slices or whole ones that a replica owns?

A step sums the gradients so that each replica gets its part of the sum, lets Keras's own optimizer
update the parts that it was built for, and gathers the new weights. What the optimizer computes of
all gradients, a norm to clip by and whether all are finite, is summed over the workers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.compression import EXACT, Reduction
from tfdist.compat import keras_internals, optimizer_slices, tf_internals
from tfdist.compat.notes import note_of
from tfdist.compat.untraced import outside_of_steps
from tfdist.global_batch import position as position_lib
from tfdist.sharding import allowed, of_all_gradients
from tfdist.sharding.by_owner import ByOwner
from tfdist.sharding.in_slices import InSlices
from tfdist.sharding.sliced_state import bytes_held, load, save
from tfdist.sharding.stand_in import Parting, StandIn
from tfdist.sharding.sums import summed

PartsOf = Callable[[tf.Tensor], Sequence[tf.Tensor]]
Change = Callable[[int, Sequence[tf.Tensor], PartsOf], list[tf.Tensor]]


class Shards:
    """An optimizer that is built for parts of a model's weights.

    Args:
        model: The model, built and compiled; its optimizer has no variables but its settings.
        strategy: The strategy that it was made under.
    """

    def __init__(self, model: keras.Model, strategy: tf.distribute.Strategy) -> None:
        self._strategy, self._optimizer = strategy, model.optimizer
        self._inner = optimizer_slices.inner_of(model.optimizer)
        whole = allowed.stays_whole(model, strategy.num_replicas_in_sync)
        parted = [v for v in model.trainable_variables if id(v) not in whole]
        self._parting: Parting = (
            ByOwner(strategy, parted) if allowed.needs_whole_weights(self._inner)
            else InSlices(strategy)
        )
        self._items = [
            StandIn(v, (v,), True) if id(v) in whole
            else outside_of_steps(functools.partial(self._parting.stand_in, v))
            for v in model.trainable_variables
        ]
        self._parts = [part for item in self._items for part in item.parts]
        self._applied: list[StandIn] = []  # those with gradients, while an update is traced
        self._slots: dict[int, tuple[StandIn, str]] = {}
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
        """Bytes of the states that a replica holds, the one that holds the most."""
        replicas = range(self._strategy.num_replicas_in_sync)
        return max(sum(bytes_held(state, replica) for state in self.states) for replica in replicas)

    @property
    def updated_bytes(self) -> tuple[int, int]:
        """Bytes of the weights that a replica updates, and of what it updates of one of them.

        Of the replica that updates the most.
        """
        whole = [item.size for item in self._items if item.is_whole]
        parted = self._parted()
        at_once = [self._parting.fullest([item]) for item in parted]
        return sum(whole) + self._parting.fullest(parted), max([*whole, *at_once], default=0)

    def update(
        self,
        gradients: Sequence[Any],
        variables: Sequence[Any],
        *,
        apply: Callable[..., None] | None = None,
        reduction: Reduction = EXACT,
        change: Change | None = None,
    ) -> None:
        """Does what `step.update.update` does, with each replica's parts.

        Args:
            gradients: As there, and so are all others but the last.
            variables: All that the optimizer is built for.
            apply: As there.
            reduction: As there.
            change: Makes of the sums what is applied: of each weight's number among all, the parts
                of its sum, and a function that returns the same parts of any tensor of its shape.
        """
        if [id(v) for v in variables] != [id(item.weight) for item in self._items]:
            raise ValueError(
                "The optimizer holds its states in parts, for all trainable weights of the model "
                "that fit(..., sharded_optimizer=True) has trained, and was given others. Compile "
                "the model with a new optimizer."
            )
        sums = summed(self._items, gradients, self._parting, self._strategy, reduction)
        if change:
            sums = [
                None if own is None else change(index, own, functools.partial(self._parts_of, item))
                for index, (item, own) in enumerate(zip(self._items, sums, strict=True))
            ]
        self._applied = [i for i, s in zip(self._items, sums, strict=True) if s is not None]
        self.refresh(sums)
        before = tf.identity(self._steps.value)
        with tf_internals.default_replica_mode(), position_lib.at(None):
            self._apply(sums, apply)
        self._settle(before)
        for item in self._parted():
            self._parting.clear(item)

    def refresh(self, sums: Sequence[Any] | None = None) -> None:
        """Gives the parts the values that the weights have now; in a step after the sums."""
        for index, item in enumerate(self._items):
            if not item.is_whole:
                after = sums[index] if sums else None
                self._parting.refresh(item, after=after or ())

    def publish(self) -> None:
        """Gives the weights the values of all replicas' parts."""
        self._parting.publish(self._parted())

    def around(self, function: Callable[[], None]) -> None:
        """Calls what changes parts outside of a step; every worker has to call it."""
        with tf_internals.default_replica_mode():
            self._traced[0]()
            function()
            self._traced[1]()
        for item in self._parted():
            self._parting.clear(item)

    def _build(self) -> None:
        known = {id(part): item for item in self._items for part in item.parts}

        def note(reference: Any, name: str, made: Any) -> None:
            item = known[id(reference)]
            self._slots[id(made)] = item, name
            if not item.is_whole:
                self._parting.made(item, made)

        for item in self._parted():
            optimizer_slices.as_left_out_of_decay(self._optimizer, item.weight, item.parts)
        optimizer_slices.build(self._optimizer, self._parts, self._strategy, note)
        self._parting.built(self._parted())

    def _states_of(self, optimizer: Any) -> list[Any]:
        states: list[Any] = []
        parts: dict[tuple[int, str], list[Any]] = {}
        for variable in optimizer.variables:
            item, name = self._slots.get(id(variable), (None, ""))
            if item is None or item.is_whole:
                states.append(variable)
                continue
            key = id(item.weight), name
            parts.setdefault(key, []).append(variable)
            if len(parts[key]) == len(item.parts):
                # Adafactor gives two states of a weight one name.
                states.append(self._parting.whole_state(item, parts.pop(key)))
        return states

    def _replace(self) -> None:
        """Puts what needs whole weights, or all gradients, in the place of Keras's."""
        if self._inner.clipnorm or self._inner.global_clipnorm:
            optimizer_slices.replace_clipping(
                self._inner,
                lambda gradients: of_all_gradients.clipped(
                    self._inner, self._applied, gradients, self._strategy
                ),
            )
        if self._inner is not self._optimizer:
            optimizer_slices.replace(
                self._optimizer,
                check_finite=lambda original, gradients: of_all_gradients.are_finite(
                    original(gradients), self._strategy
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
                save_own_variables=lambda original, store, states=states: save(states, store),
                load_own_variables=lambda original, store, states=states: load(states, store),
            )

    def _parted(self) -> list[StandIn]:
        return [item for item in self._items if not item.is_whole]

    @property
    def _steps(self) -> Any:
        return keras_internals.settings_of(self._inner)[0]

    def _parts_of(self, item: StandIn, whole: tf.Tensor) -> list[tf.Tensor]:
        return [whole] if item.is_whole else self._parting.parts_of(item, whole)

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
        flags = of_all_gradients.flags(sums, self._strategy)
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
    """Returns the shards of an optimizer that holds its states in parts; else None."""
    return None if optimizer is None else note_of(optimizer, "shards")


def states_of(optimizer: Any) -> Sequence[Any]:
    """Returns an optimizer's variables; a `HeldState` for what the replicas hold in parts."""
    held = of(optimizer)
    return optimizer.variables if held is None else held.states


def _true(function: Callable[[], None]) -> tf.Tensor:
    function()
    return tf.constant(True)


def _constrain(weights: Sequence[Any]) -> None:
    with tf_internals.default_replica_mode():
        for weight in weights:
            weight.assign(weight.constraint(weight))
