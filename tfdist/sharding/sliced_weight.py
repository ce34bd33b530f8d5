"""What does an optimizer see of a weight of which each replica updates one slice?

A variable that stands in for it on each replica of this worker. Between two steps it means nothing:
before an update it is given the weight's values, and afterwards the weight is given those of all
replicas' slices.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import tensorflow as tf

from tfdist.communication import slices as slices_lib
from tfdist.communication.slices import Slices
from tfdist.compat import optimizer_slices


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

    def refresh(self, strategy: tf.distribute.Strategy, slices: Slices) -> None:
        """Gives the slices the values that the weight has now."""
        components = strategy.experimental_local_results(self.weight.value)
        for replica, part, component in zip(
            slices.replicas, self.parts, components, strict=True
        ):
            with tf.device(part.value.device):
                own = slices_lib.own_block(component.read_value(), replica, slices.parts)
                part.value.assign(own)


def sliced(weight: Any, strategy: tf.distribute.Strategy, slices: Slices) -> SlicedWeight:
    """Makes the slices of a weight; outside of any scope."""
    long = slices_lib.length(weight.shape.num_elements(), slices.parts)
    parts = []
    for component in strategy.experimental_local_results(weight.value):
        with tf.device(component.device):
            name = component.name.partition(":")[0]
            value = tf.Variable(tf.zeros([long], component.dtype), name=name)
        parts.append(optimizer_slices.slice_of(weight, value))
    return SlicedWeight(weight, tuple(parts), False)
