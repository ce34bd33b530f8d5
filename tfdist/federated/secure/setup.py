"""What do all parties of a round have to agree on?  Everything that decides what a mask hides.

Its hash, the context, is in all that is signed, and in all keys that are derived. So a message of
another round, or of other bounds, does not fit.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tfdist.federated.secure.ring import Ring

PHASES = ("keys", "shares", "masked", "consistency", "unmask")


def least_threshold(clients: int) -> int:
    """Returns how many clients must be left at least: more than two thirds.

    With that many, a server that sends different things to different clients cannot get both kinds
    of shares of one of them, if at most a third of the clients help it.

    >>> [least_threshold(n) for n in (2, 3, 10)]
    [2, 3, 7]
    """
    return 2 * clients // 3 + 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """A round of secure sums.

    Attributes:
        session: A name that the server draws for a run.
        round_number: From 0.
        names: The clients that are asked, in the order of their names.
        threshold: How many must be left at the end, or there is no sum.
        length: How many numbers each sends.
        largest: See `Ring`.
        max_weight: See `Ring`.
    """

    session: str
    round_number: int
    names: tuple[str, ...]
    threshold: int
    length: int
    largest: float
    max_weight: int

    def __post_init__(self) -> None:
        names = self.names
        if list(names) != sorted(set(names)) or len(names) < 2:
            raise ValueError(
                f"A sum over {len(set(names))} different clients of {len(names)} was asked for: "
                "it hides a client among others. Ask at least two, each once."
            )
        if not least_threshold(len(names)) <= self.threshold <= len(names):
            raise ValueError(
                f"threshold={self.threshold} of {len(names)} clients must be at least "
                f"{least_threshold(len(names))}, more than two thirds of them, and at most all. "
                "Give one in between, or ask more clients."
            )
        _ = self.ring  # refuses what could overflow, at the server too, before anything is asked

    @property
    def ring(self) -> Ring:
        """How the numbers are added."""
        return Ring(self.largest, self.max_weight, len(self.names))

    @property
    def context(self) -> bytes:
        """32 bytes that stand for all of it."""
        text = json.dumps(self.told(), sort_keys=True).encode()
        return hashlib.sha256(b"tfdist secure sum 1\0" + text).digest()

    def point(self, name: str) -> int:
        """Returns the point of a client at which shares are taken."""
        return self.names.index(name) + 1

    def told(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return {**dataclasses.asdict(self), "names": list(self.names)}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Setup:
        """Reads what `told` returned.

        Raises:
            ValueError: It is nothing of the kind, or no round can be like it.
        """
        kinds = {
            "session": str, "round_number": int, "names": list, "threshold": int, "length": int,
            "largest": float, "max_weight": int,
        }
        found = {name: type(value) for name, value in told.items()}
        if found != kinds or not all(type(name) is str for name in told["names"]):
            raise ValueError(
                f"A round of secure sums is described by {sorted(told)}, and {sorted(kinds)} are "
                "expected. Let the server and its clients have the same version of tfdist."
            )
        return cls(**{**told, "names": tuple(told["names"])})
