"""How does the server get the sum of what its clients have learnt, and see nothing else of it?

The protocol is in secure/; here it is run over a channel, with the clients' changes as numbers.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from tfdist.federated import messages
from tfdist.federated.averaging import unflat
from tfdist.federated.channel import Channel, Request
from tfdist.federated.collecting import Collected
from tfdist.federated.secure import keys
from tfdist.federated.secure.client import SecureClient
from tfdist.federated.secure.server import SecureServer
from tfdist.federated.secure.setup import Setup, least_threshold
from tfdist.federated.site import WEIGHTS
from tfdist.federated.task import Task

_LOG = logging.getLogger("tfdist")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SecureSums:
    """What is asked of secure sums; the same at the server and at all clients.

    Attributes:
        largest: What no weight's change in a round exceeds in size; one that does is an error at
            the client. The smaller it is, the finer the numbers are added.
        max_examples: What no client's number of examples exceeds.
        threshold: How many clients a sum has to be of at least. In any case they are more than two
            thirds of those that were asked. A client refuses a round that asks for fewer, so that
            a server cannot ask it beside a few that help the server.
    """

    largest: float = 1.0
    max_examples: int = 1_000_000
    threshold: int = 2

    def setup(self, session: str, round_number: int, names: Sequence[str], length: int) -> Setup:
        """Returns the setup of a round."""
        threshold = max(self.threshold, least_threshold(len(names)))
        return Setup(
            session=session, round_number=round_number, names=tuple(sorted(names)),
            threshold=threshold, length=length, largest=float(self.largest),
            max_weight=self.max_examples,
        )

    def client(
        self, name: str, identity: keys.Identity, pinned: Mapping[str, bytes]
    ) -> SecureClient:
        """Returns a client's side."""
        return SecureClient(
            name, identity, pinned, largest=float(self.largest), max_weight=self.max_examples,
            threshold=self.threshold,
        )


class Secure:
    """The server sees the sum of what its clients have learnt, and of their examples.

    Args:
        channel: The way to the clients.
        shapes: The shapes of the weights that travel back, by name.
        asked: What is asked.
        pinned: Public identities by name, as far as the server knows them.
        may_be_empty: Whether a round that asks fewer clients than the threshold is one without a
            client instead of an error.
    """

    def __init__(
        self,
        channel: Channel,
        shapes: Mapping[str, tuple[int, ...]],
        asked: SecureSums,
        pinned: Mapping[str, bytes] | None = None,
        *,
        may_be_empty: bool = False,
    ) -> None:
        self._channel, self._shapes, self._asked = channel, dict(shapes), asked
        self._pinned, self._may_be_empty = pinned, may_be_empty
        self._session = os.urandom(16).hex()

    def collect(
        self, task: Task, values: Mapping[str, np.ndarray], local: dict[str, Any],
        names: Sequence[str],
    ) -> Collected:
        """See `Collecting`.

        Raises:
            RuntimeError: Fewer clients than the threshold are left.
        """
        if len(names) < max(2, self._asked.threshold) and self._may_be_empty:
            return Collected({n: np.zeros(shape) for n, shape in self._shapes.items()}, 0.0, [], {})
        length = sum(math.prod(shape) for shape in self._shapes.values())
        setup = self._asked.setup(self._session, task.round_number, names, length)
        server = SecureServer(setup, self._pinned)
        left: dict[str, str] = {}
        number = task.round_number
        self._phase(server, "keys", number, *server.ask_keys(), left)
        self._phase(server, "shares", number, *server.ask_shares(), left)
        arrays = {WEIGHTS + name: value for name, value in values.items()}
        common = messages.pack("train", {"task": task.told()}, arrays)
        self._take(server, Request("masked", number, common, server.ask_masked()), left)
        self._phase(server, "consistency", number, *server.ask_consistency(), left)
        self._phase(server, "unmask", number, *server.ask_unmask(), left)
        total, weight = server.result()
        changes = unflat(setup.ring.decode(total), self._shapes)
        # Who has left after the numbers were in the sum has not left it.
        left = {name: why for name, why in left.items() if name not in server.in_sum}
        return Collected(changes, float(weight), server.in_sum, left)

    def _phase(
        self, server: SecureServer, phase: str, number: int, common: bytes,
        names: Iterable[str], left: dict[str, str],
    ) -> None:
        self._take(server, Request(phase, number, common, dict.fromkeys(names, b"")), left)

    def _take(self, server: SecureServer, request: Request, left: dict[str, str]) -> None:
        """Asks, and takes what comes; who sends something wrong has left."""
        answered = set()
        for name, answer in self._channel.ask(request):
            answered.add(name)
            try:
                message = messages.unpack(answer, request.phase, "left")
                if message.kind == "left":
                    left[name] = str(message.header["why"])
                else:
                    server.take(name, answer)
            except ValueError as error:
                left[name] = str(error)
                _LOG.warning("%s It is left out of round %d.", error, request.round_number + 1)
        missing = sorted(set(request.own) - answered)
        left |= dict.fromkeys(missing, f"it has not answered in the phase {request.phase}")
