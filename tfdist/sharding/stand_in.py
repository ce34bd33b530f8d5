"""What does an optimizer see of a weight, of whose states each replica holds a part alone?

A variable that stands in for it on each replica of this worker. How weights are parted is for a
`Parting` to say: each of them in slices, or whole ones among owners.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, Protocol

import tensorflow as tf

from tfdist.communication.compression import Reduction


@dataclasses.dataclass(frozen=True)
class StandIn:
    """A weight, as the optimizer sees it.

    Attributes:
        weight: The weight of the model.
        parts: What the optimizer of this worker updates: its replicas' parts, or the weight itself
            where it stays whole.
        is_whole: Whether all replicas hold all of its states.
    """

    weight: Any
    parts: tuple[Any, ...]
    is_whole: bool = False

    @property
    def size(self) -> int:
        """Bytes of the weight."""
        return int(self.weight.shape.num_elements() * tf.as_dtype(self.weight.dtype).size)


class Parting(Protocol):
    """How weights, and their states, are parted among the replicas."""

    def stand_in(self, weight: Any) -> StandIn:
        """Makes what stands in for a weight; outside of any scope."""

    def made(self, item: StandIn, state: Any) -> None:
        """Takes notice of a state that the optimizer has just made for a part."""

    def built(self, items: Sequence[StandIn]) -> None:
        """Takes notice that the optimizer is built for the parts of these."""

    def whole_state(self, item: StandIn, states: Sequence[Any]) -> Any:
        """Returns one state of a weight as a whole, of the states of this worker's parts."""

    def summed(
        self, items: Sequence[StandIn], gradients: Sequence[Any], reduction: Reduction
    ) -> list[list[tf.Tensor]]:
        """Sums gradients; returns for each weight the sums for its parts."""

    def parts_of(self, item: StandIn, whole: tf.Tensor) -> list[tf.Tensor]:
        """Returns this worker's parts of a tensor of a weight's shape."""

    def refresh(self, item: StandIn, *, after: Sequence[Any] = ()) -> None:
        """Gives the parts the values that the weight has now; in a graph, after some tensors."""

    def clear(self, item: StandIn) -> None:
        """Gives back the memory of the parts that is needed during an update alone."""

    def publish(self, items: Sequence[StandIn]) -> None:
        """Gives the weights the values of all replicas' parts."""

    def fullest(self, items: Sequence[StandIn]) -> int:
        """Returns the most bytes of these weights that a replica updates."""
