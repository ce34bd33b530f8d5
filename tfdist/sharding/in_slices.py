"""How is each weight parted into as many slices as there are replicas?

A slice is a variable of its own. Between two steps it means nothing: before an update it is given
the weight's values, and afterwards the weight is given those of all replicas' slices. A large one
is empty between two steps, and while gradients are computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfdist.communication import slices as slices_lib
from tfdist.communication.compression import Reduction
from tfdist.communication.slices import Slices
from tfdist.communication.workers import Workers
from tfdist.compat import optimizer_slices, tf_internals
from tfdist.sharding.sliced_state import SlicedState
from tfdist.sharding.stand_in import StandIn

_LARGE = 2**14  # numbers; the static shape of a smaller slice is worth more than its memory


class InSlices:
    """A `Parting` of each weight into slices.

    Args:
        strategy: The strategy of the weights.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy, self._workers = strategy, Workers(strategy)
        self._slices = Slices(strategy)

    def stand_in(self, weight: Any) -> StandIn:
        """Makes the slices of a weight; outside of any scope."""
        long = slices_lib.length(weight.shape.num_elements(), self._slices.parts)
        parts = []
        for component in self._strategy.experimental_local_results(weight.value):
            with tf.device(component.device):
                name = component.name.partition(":")[0]
                is_large = long >= _LARGE
                first = tf.zeros([0 if is_large else long], component.dtype)
                value = tf.Variable(first, name=name, shape=[None] if is_large else None)
            parts.append(optimizer_slices.stand_in(weight, value, shape=(long,)))
        return StandIn(weight, tuple(parts))

    def made(self, item: StandIn, state: Any) -> None:
        """Does nothing: a state is as long as its slice."""

    def built(self, items: Sequence[StandIn]) -> None:
        """Does nothing."""

    def whole_state(self, item: StandIn, states: Sequence[Any]) -> SlicedState:
        """Returns one state of a weight as a whole."""
        own = [state.value for state in states]
        return SlicedState(states[-1].path, item.weight.shape, own, self._workers)

    def summed(
        self, items: Sequence[StandIn], gradients: Sequence[Any], reduction: Reduction
    ) -> list[list[tf.Tensor]]:
        """Sums gradients; returns for each weight the sums for its slices."""
        return self._slices.summed(gradients, reduction)

    def parts_of(self, item: StandIn, whole: tf.Tensor) -> list[tf.Tensor]:
        """Returns this worker's slices of a tensor of a weight's shape."""
        replicas, parts = self._slices.replicas, self._slices.parts
        return [slices_lib.own_slice(whole, replica, parts) for replica in replicas]

    def refresh(self, item: StandIn, *, after: Sequence[Any] = ()) -> None:
        """Gives the slices the values that the weight has now.

        Args:
            item: The weight.
            after: Tensors; in a graph, the slices are empty until these are there.
        """
        components = self._strategy.experimental_local_results(item.weight.value)
        for replica, part, component in zip(
            self._slices.replicas, item.parts, components, strict=True
        ):
            with tf.device(part.value.device), tf.control_dependencies(after):
                own = slices_lib.own_slice(component.read_value(), replica, self._slices.parts)
                part.value.assign(own)

    def clear(self, item: StandIn) -> None:
        """Empties the slices, if they are large."""
        for part in item.parts:
            if part.value.shape.num_elements() is None:
                with tf.device(part.value.device):
                    part.value.assign(tf.zeros([0], part.value.dtype))

    def publish(self, items: Sequence[StandIn]) -> None:
        """Gives the weights the values of all replicas' slices."""
        own = [
            [tf.ensure_shape(part.value.read_value(), part.shape) for part in item.parts]
            for item in items
        ]
        sizes = [item.weight.shape.num_elements() for item in items]
        every = self._slices.gathered(own, sizes)
        with tf_internals.default_replica_mode():
            for item, pieces in zip(items, every, strict=True):
                item.weight.assign(slices_lib.whole(pieces, item.weight.shape))

    def fullest(self, items: Sequence[StandIn]) -> int:
        """Returns the bytes of these weights that a replica updates."""
        return -(-sum(item.size for item in items) // self._slices.parts)
