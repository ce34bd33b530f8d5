"""How does the server reach its clients?  It asks some of them, and takes who answers.

There are three ways: in this process, over the workers of a job (over_workers.py), and over
connections between sites (sites/).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol

from tfdist.federated import messages
from tfdist.federated.site import Site


@dataclasses.dataclass(frozen=True)
class Request:
    """What clients are asked.

    Attributes:
        phase: Of the round: "train", "evaluate", or one of secure sums.
        round_number: From 0.
        common: What all are asked.
        own: Whom it is for, and what each is told besides.
    """

    phase: str
    round_number: int
    common: bytes
    own: Mapping[str, bytes]


class Channel(Protocol):
    """The way to the clients."""

    def names(self) -> list[str]:
        """Returns who can be asked now, in the order of the names."""

    def ask(self, request: Request) -> Iterator[tuple[str, bytes]]:
        """Yields who answers and what, in the order of the names.

        A client that does not answer is left out, or has the answer "left" with a reason.
        """


#: Says that a client leaves in this phase of this round: `drop_out(round, name) -> phase or None`.
DropOut = Callable[[int, str], str | None]


class InProcess:
    """Clients of this process, one after the other.

    Args:
        sites: The clients, by name.
        drop_out: Who leaves when, for trying it out; None for nobody.
    """

    def __init__(self, sites: Mapping[str, Site], drop_out: DropOut | None = None) -> None:
        self._sites, self._drop_out = sites, drop_out

    def names(self) -> list[str]:
        """See `Channel`."""
        return sorted(self._sites)

    def ask(self, request: Request) -> Iterator[tuple[str, bytes]]:
        """See `Channel`."""
        for name in sorted(request.own):
            yield name, self.answer(request, name)

    def answer(self, request: Request, name: str) -> bytes:
        """Returns the answer of one client."""
        if self._drop_out and self._drop_out(request.round_number, name) == request.phase:
            return messages.pack("left", {"why": f"drop_out says so in the phase {request.phase}"})
        return self._sites[name].handle(request.common, request.own[name])
