"""What does a client do when the server asks?  Messages in, messages out.

A client trains or evaluates on its own data with the weights that it is sent. Where some weights
stay with the clients, they stay here; or, where the whole run is one job, the job carries them, so
that any of its workers can be any client.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdist.federated import clients, messages
from tfdist.federated.averaging import change_of, flat
from tfdist.federated.learner import Learner
from tfdist.federated.messages import Message
from tfdist.federated.secure.client import SecureClient
from tfdist.federated.secure.setup import PHASES
from tfdist.federated.task import Task
from tfdist.federated.user_privacy import clipped

WEIGHTS, LOCAL = "w/", "local/"  # what names of arrays in messages begin with


class Site:
    """One client.

    Args:
        name: Its name.
        learner: The model, which other clients of this process may share.
        data: Its data; see `clients.loaded`.
        validation: Its data for evaluation, or None.
        secure: Its side of secure sums, without which it sends what it has learnt as it is.
        clip: What norm its change of the weights is clipped to, for private training; it then
            tells neither its examples nor its logs. None for all as it is.
    """

    def __init__(
        self,
        name: str,
        learner: Learner,
        *,
        data: Any = None,
        validation: Any = None,
        secure: SecureClient | None = None,
        clip: float | None = None,
    ) -> None:
        self.name = name
        self._learner, self._data, self._validation = learner, data, validation
        self._secure, self._clip = secure, clip
        self._local: dict[str, np.ndarray] = {}

    @property
    def local(self) -> dict[str, np.ndarray]:
        """The weights that have stayed here, by name."""
        return dict(self._local)

    def handle(self, common: bytes, own: bytes = b"") -> bytes:
        """Answers a request.

        Args:
            common: What all clients are asked.
            own: What this one is told besides; b"" for nothing.

        Raises:
            ValueError: The request cannot be read, or is one that this client refuses.
        """
        request = messages.unpack(common, "train", "evaluate", *PHASES)
        try:
            if request.kind in PHASES:
                answer: bytes = getattr(self._secured(request.kind), request.kind)(common)
                return answer
            if request.kind == "evaluate":
                return self._evaluate(request, own)
            return self._train(request, own)
        except clients.Unavailable as reason:
            return messages.pack("left", {"why": str(reason) or "it is not available"})

    def _train(self, request: Message, own: bytes) -> bytes:
        if self._secure is None:
            return self._in_the_open(request, own)
        if not own:
            raise ValueError(
                f"The server has asked the client {self.name!r} for what it has learnt in the "
                "open, and the client sends secure sums alone. Give the server secure=SecureSums()."
            )
        return self._secure.masked(own, lambda: self._numbers(request))

    def _in_the_open(self, request: Message, own: bytes) -> bytes:
        """Trains, and returns an update that all can read."""
        carried = messages.unpack(own, "local") if own else None
        values = self._values(request, carried)
        examples, logs = self._learnt(request, values, carried)
        learner = self._learner
        found = learner.values(learner.shared)
        header: dict[str, Any] = {"clip": self._clip, "examples": examples, "logs": logs}
        if self._clip is not None:
            found = clipped(change_of(found, values), self._clip)
            header |= {"examples": 1, "logs": {}}
        arrays = {WEIGHTS + name: value for name, value in found.items()}
        if carried is not None:
            local = learner.values(learner.local)
            arrays |= {LOCAL + name: value for name, value in local.items()}
        return messages.pack("update", header, arrays)

    def _numbers(self, request: Message) -> tuple[np.ndarray, int]:
        """Trains, and returns the change as numbers, and their weight."""
        values = self._values(request, None)
        examples, _ = self._learnt(request, values, None)
        change = change_of(self._learner.values(self._learner.shared), values)
        if self._clip is None:
            return flat(change), examples
        numbers = flat(clipped(change, self._clip))
        # Rounding to the ring must not make it longer than the promise says.
        room = math.sqrt(numbers.size) * self._secured("masked").resolution / 2
        return numbers * max(0.0, 1 - room / self._clip), 1

    def _learnt(
        self, request: Message, values: Mapping[str, np.ndarray], carried: Message | None
    ) -> tuple[int, dict[str, float]]:
        """Trains the model; returns of how many examples, and the logs."""
        data = clients.loaded(self.name, self._data)
        learner, logs = self._learner, {}
        if data.examples:
            task = Task.of(request.header["task"])
            logs = learner.train(values, data, task, client=self.name)
        else:  # nothing to learn from, and nothing that counts
            learner.set(values)
        if carried is None:
            self._local = learner.values(learner.local)
        return data.examples, logs

    def _secured(self, phase: str) -> SecureClient:
        if self._secure is None:
            raise ValueError(
                f"The server has asked the client {self.name!r} for the phase {phase!r} of secure "
                "sums, and the client has no part in them. Give it secure=SecureSums() too."
            )
        return self._secure

    def _evaluate(self, request: Message, own: bytes) -> bytes:
        if self._secure is not None or self._clip is not None:
            raise ValueError(
                f"The server has asked the client {self.name!r} for metrics of its own data, which "
                "tell of it. Evaluate on data of the server, with validation_data."
            )
        carried = messages.unpack(own, "local") if own else None
        data = clients.loaded(self.name, self._validation)
        values = self._values(request, carried)
        logs = {}
        if data.examples:
            logs = self._learner.evaluate(values, data, Task.of(request.header["task"]))
        return messages.pack("evaluation", {"examples": data.examples, "logs": logs})

    def _values(self, request: Message, carried: Message | None) -> dict[str, np.ndarray]:
        """Returns the weights to begin with: the server's, but for those that stay here."""
        sent = of(request, WEIGHTS)
        known = self._local if carried is None else of(carried, LOCAL)
        values = {**sent, **known}
        wanted = self._learner.shapes
        found = {name: value.shape for name, value in values.items()}
        if found != wanted:
            name = next(n for n in [*wanted, *found] if wanted.get(n) != found.get(n))
            raise ValueError(
                f"The server has sent {name!r} with the shape {found.get(name)}, and the model of "
                f"the client {self.name!r} has {wanted.get(name)}. Let all build the same model."
            )
        return values


def of(message: Message, prefix: str) -> dict[str, np.ndarray]:
    """Returns the arrays of a message whose names begin with `prefix`, without it."""
    return {
        name.removeprefix(prefix): value
        for name, value in message.arrays.items()
        if name.startswith(prefix)
    }
