"""A round of secure sums without a network, for tests that step in between.

The server is the real one, and gets messages alone, all of which are kept.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfdist.federated.secure import keys
from tfdist.federated.secure.client import SecureClient
from tfdist.federated.secure.server import SecureServer
from tfdist.federated.secure.setup import PHASES, Setup

LENGTH = 40
BOUNDS = {"largest": 4.0, "max_weight": 100}
NAMES = [f"site {letter}" for letter in "abcdefghij"]


class Sum:
    """Runs the phases of a round."""

    def __init__(self, names: Any = NAMES, *, round_number: int = 0, **kwargs: Any) -> None:
        identities = {name: keys.Identity.generate() for name in names}
        self.pinned = {name: one.public for name, one in identities.items()}
        self.setup = Setup(
            session="s", round_number=round_number, names=tuple(names),
            threshold=kwargs.pop("threshold", 2 * len(names) // 3 + 1), length=LENGTH,
            **{**BOUNDS, **kwargs},
        )
        self.clients = {
            name: SecureClient(name, identities[name], self.pinned, **BOUNDS) for name in names
        }
        self.server = SecureServer(self.setup, self.pinned)
        rng = np.random.default_rng(len(names))
        self.numbers = {name: rng.uniform(-4, 4, LENGTH) for name in names}
        self.weights = {name: int(rng.integers(1, 101)) for name in names}
        self.received: list[bytes] = []
        self.leaves: dict[str, str] = {}  # phase by client

    def requests(self, phase: str) -> dict[str, bytes]:
        """What the server asks in a phase, by client."""
        if phase == "masked":
            return self.server.ask_masked()
        common, names = getattr(self.server, f"ask_{phase}")()
        return dict.fromkeys(names, common)

    def answer(self, phase: str, name: str, request: bytes) -> bytes:
        """What a client answers."""
        client = self.clients[name]
        if phase == "masked":
            return client.masked(request, lambda: (self.numbers[name], self.weights[name]))
        return getattr(client, phase)(request)

    def phase(self, phase: str) -> None:
        """Runs a phase."""
        for name, request in self.requests(phase).items():
            if self.leaves.get(name) != phase:
                answer = self.answer(phase, name, request)
                self.received.append(answer)
                self.server.take(name, answer)

    def run(self, until: str = "unmask") -> Sum:
        """Runs the phases up to this one."""
        for phase in PHASES[: PHASES.index(until) + 1]:
            self.phase(phase)
        return self

    def wanted(self, names: Any) -> tuple[np.ndarray, int]:
        """The plain sum of integers."""
        total = np.zeros(LENGTH, np.int64)
        for name in names:
            scaled = np.rint(self.numbers[name] * 2.0**self.setup.ring.bits).astype(np.int64)
            total = total + self.weights[name] * scaled
        return total, sum(self.weights[name] for name in names)
