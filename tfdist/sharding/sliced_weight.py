"""What does an optimizer see of a weight of which each replica updates one slice?

A variable that stands in for it on each replica of this worker. Between two steps it means nothing:
before an update it is given the weight's values, and afterwards the weight is given those of all
replicas' slices. A large one is empty between two steps, and while gradients are computed.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfdist.communication import slices as slices_lib
from tfdist.communication.slices import Slices
from tfdist.compat import optimizer_slices

_LARGE = 2**14  # numbers; the static shape of a smaller slice is worth more than its memory


@dataclasses.dataclass(frozen=True)
class SlicedWeight:
    """A weight, as the optimizer sees it.

    Attributes:
        weight: The weight of the model.
        parts: What the optimizer updates: a slice for each of this worker's replicas, or the weight
            itself where it stays whole.
        is_whole: Whether it stays whole.
    """

    weight: Any
    parts: tuple[Any, ...]
    is_whole: bool

    def refresh(
        self, strategy: tf.distribute.Strategy, slices: Slices, *, after: Sequence[Any] = ()
    ) -> None:
        """Gives the slices the values that the weight has now.

        Args:
            strategy: Of the weight.
            slices: Of the strategy.
            after: Tensors; in a graph, the slices are empty until these are there.
        """
        components = strategy.experimental_local_results(self.weight.value)
        for replica, part, component in zip(
            slices.replicas, self.parts, components, strict=True
        ):
            with tf.device(part.value.device), tf.control_dependencies(after):
                own = slices_lib.own_slice(component.read_value(), replica, slices.parts)
                part.value.assign(own)


    def clear(self) -> None:
        """Empties the slices, if they are large."""
        for part in self.parts:
            if part.value.shape.num_elements() is None:
                with tf.device(part.value.device):
                    part.value.assign(tf.zeros([0], part.value.dtype))


def sliced(weight: Any, strategy: tf.distribute.Strategy, slices: Slices) -> SlicedWeight:
    """Makes the slices of a weight; outside of any scope."""
    long = slices_lib.length(weight.shape.num_elements(), slices.parts)
    parts = []
    for component in strategy.experimental_local_results(weight.value):
        with tf.device(component.device):
            name = component.name.partition(":")[0]
            is_large = long >= _LARGE
            first = tf.zeros([0 if is_large else long], component.dtype)
            value = tf.Variable(first, name=name, shape=[None] if is_large else None)
        parts.append(optimizer_slices.slice_of(weight, value, length=long))
    return SlicedWeight(weight, tuple(parts), False)
