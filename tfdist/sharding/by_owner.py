"""How are whole weights parted among the replicas, each with an owner?

For optimizers that look at whole weights. The owner updates its replica's own copy of the weight.
On other workers an empty variable of the same rank stands in for it: so all of them do the same
operations and have the same states in the same order, of which those of others' weights are empty.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfdist.communication import owners as owners_lib
from tfdist.communication.compression import Reduction
from tfdist.communication.owners import Owners
from tfdist.communication.workers import Workers
from tfdist.compat import optimizer_slices, tf_internals
from tfdist.sharding.owned_state import OwnedState
from tfdist.sharding.stand_in import StandIn


class ByOwner:
    """A `Parting` of whole weights among owners, who have about as many bytes.

    Args:
        strategy: The strategy of the weights.
        weights: All that are to be parted, in the order that all workers have them in.
    """

    def __init__(self, strategy: tf.distribute.Strategy, weights: Sequence[Any]) -> None:
        self._strategy, self._workers = strategy, Workers(strategy)
        self._owners = Owners(strategy)
        sizes = [StandIn(weight, ()).size for weight in weights]
        dealt = owners_lib.deal(sizes, strategy.num_replicas_in_sync)
        self._owner_of = {id(w): owner for w, owner in zip(weights, dealt, strict=True)}
        self._shapes: dict[int, tuple[int, ...]] = {}  # of whole states

    def stand_in(self, weight: Any) -> StandIn:
        """Makes what stands in for a weight; outside of any scope."""
        owner = self._owner_of[id(weight)]
        components = self._strategy.experimental_local_results(weight.value)
        if owner in self._owners.replicas:
            value = components[owner - self._owners.replicas.start]
        else:
            with tf.device(components[0].device):
                name = components[0].name.partition(":")[0]
                value = tf.Variable(tf.zeros([0] * len(weight.shape), weight.dtype), name=name)
        # As long as states are made, an empty one claims to have the shape of the whole.
        part = optimizer_slices.stand_in(weight, value, shape=tuple(weight.shape))
        return StandIn(weight, (part,))

    def made(self, item: StandIn, state: Any) -> None:
        """Notes the shape of a new state, and empties it if another worker owns it."""
        self._shapes[id(state)] = tuple(state.shape)
        if self._owner(item) not in self._owners.replicas:
            optimizer_slices.empty(state)

    def built(self, items: Sequence[StandIn]) -> None:
        """Gives empty stand-ins their own shape."""
        for item in items:
            if self._owner(item) not in self._owners.replicas:
                optimizer_slices.show_shape(item.parts[0])

    def whole_state(self, item: StandIn, states: Sequence[Any]) -> OwnedState:
        """Returns one state of a weight as a whole."""
        (state,) = states
        return OwnedState(
            state, self._shapes[id(state)], owner=self._owner(item), workers=self._workers
        )

    def summed(
        self, items: Sequence[StandIn], gradients: Sequence[Any], reduction: Reduction
    ) -> list[list[tf.Tensor]]:
        """Sums gradients; those of others' weights are empty."""
        owner_of = [self._owner(item) for item in items]
        sums = self._owners.summed(gradients, owner_of, reduction)
        return [[one] for one in sums]

    def parts_of(self, item: StandIn, whole: tf.Tensor) -> list[tf.Tensor]:
        """Returns a tensor of a weight's shape; an empty one where another worker owns it."""
        is_own = self._owner(item) in self._owners.replicas
        return [whole if is_own else tf.zeros([0] * whole.shape.rank, whole.dtype)]

    def refresh(self, item: StandIn, *, after: Sequence[Any] = ()) -> None:
        """Does nothing: the owner updates the weight itself."""

    def clear(self, item: StandIn) -> None:
        """Does nothing."""

    def publish(self, items: Sequence[StandIn]) -> None:
        """Gives the weights the values that their owners have."""
        own = [item.parts[0].value.read_value() for item in items]
        shapes = [item.weight.shape for item in items]
        every = self._owners.spread(own, shapes, [self._owner(item) for item in items])
        with tf_internals.default_replica_mode():
            for item, value in zip(items, every, strict=True):
                item.weight.assign(value)

    def fullest(self, items: Sequence[StandIn]) -> int:
        """Returns the most bytes of these weights that one replica owns."""
        held = [0] * self._strategy.num_replicas_in_sync
        for item in items:
            held[self._owner(item)] += item.size
        return max(held)

    def _owner(self, item: StandIn) -> int:
        return self._owner_of[id(item.weight)]
