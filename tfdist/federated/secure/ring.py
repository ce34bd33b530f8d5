"""How are fractions added exactly?  As integers modulo 2^64 that are known not to overflow.

Synopsis:

    >>> import numpy as np
    >>> ring = Ring(largest=4.0, max_weight=1000, clients=10)
    >>> ring.bits
    46
    >>> sent = ring.encode(np.array([0.5, -1.25]), weight=3) + ring.encode(np.array([1.0, 0]), 1)
    >>> ring.decode(sent)
    array([ 2.5 , -3.75])

A number v of weight w travels as w * round(v * 2^bits). As many bits are used as let the sum of all
clients stay below 2^63, whatever they hold within the bounds. Out of bounds is an error, and never
cut silently.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

_MOST_BITS = 52  # of a fraction: finer than a float64 has at 1


@dataclasses.dataclass(frozen=True)
class Ring:
    """What numbers may be, and how they are scaled.

    Attributes:
        largest: What no number exceeds in size.
        max_weight: What no client's weight exceeds: its examples.
        clients: How many may be in a sum.
    """

    largest: float
    max_weight: int
    clients: int

    def __post_init__(self) -> None:
        if not 0 < self.largest < math.inf or self.max_weight < 1 or self.clients < 1:
            raise ValueError(
                f"largest={self.largest!r}, max_weight={self.max_weight!r} and clients="
                f"{self.clients!r} bound a sum, so each has to be finite and above 0. Give such."
            )
        if self.bits < 1 or self._top() >= 2**63:
            raise ValueError(
                f"A sum over {self.clients} clients of up to {self.max_weight} examples and numbers"
                f" up to {self.largest:g} does not fit into 63 bits. Lower max_examples or largest."
            )

    @property
    def bits(self) -> int:
        """Bits behind the point."""
        return self._bits()

    @property
    def resolution(self) -> float:
        """The step between two numbers; each is rounded by at most half of it."""
        return 2.0**-self.bits

    def encode(self, values: np.ndarray, weight: int) -> np.ndarray:
        """Returns weighted numbers as integers of the ring.

        Args:
            values: float64 of any shape.
            weight: A whole number.

        Returns:
            uint64 of the same shape.

        Raises:
            ValueError: A number or the weight is out of bounds.
        """
        if type(weight) is not int or not 0 <= weight <= self.max_weight:
            raise ValueError(
                f"A client has the weight {weight!r}, and max_examples={self.max_weight} bounds "
                "it. Raise max_examples on all sites, or leave some examples out."
            )
        is_bad = ~(np.abs(values) <= self.largest)  # NaN too
        if is_bad.any():
            raise ValueError(
                f"{int(is_bad.sum())} of {values.size} numbers are larger than largest="
                f"{self.largest:g}, or not finite: {values[is_bad].flat[0]:g}. Raise largest on "
                "all sites, or lower the learning rate; nothing was sent."
            )
        scaled = np.rint(values * 2.0**self.bits).astype(np.int64)
        return (scaled * np.int64(weight)).view(np.uint64)

    def decode(self, total: np.ndarray) -> np.ndarray:
        """Returns what a sum stands for: the sum of weight times number, float64."""
        return total.view(np.int64).astype(np.float64) * self.resolution

    def _top(self) -> int:
        return self.clients * self.max_weight * math.ceil(self.largest * 2**self._bits())

    def _bits(self) -> int:
        bound = self.clients * self.max_weight * self.largest
        bits = min(_MOST_BITS, 62 - math.ceil(math.log2(bound))) if bound < 2**62 else 0
        return max(bits, 0)
