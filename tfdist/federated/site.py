"""What does a client do when the server asks?  Messages in, messages out.

A client trains or evaluates on its own data with the weights that it is sent. Where some weights
stay with the clients, they stay here; or, where the whole run is one job, the job carries them, so
that any of its workers can be any client.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from tfdist.federated import clients, messages
from tfdist.federated.learner import Learner
from tfdist.federated.messages import Message
from tfdist.federated.task import Task

WEIGHTS, LOCAL = "w/", "local/"  # what names of arrays in messages begin with


class Site:
    """One client.

    Args:
        name: Its name.
        learner: The model, which other clients of this process may share.
        data: Its data; see `clients.loaded`. None where it only evaluates.
        validation: Its data for evaluation, or None.
    """

    def __init__(
        self, name: str, learner: Learner, *, data: Any = None, validation: Any = None
    ) -> None:
        self.name = name
        self._learner, self._data, self._validation = learner, data, validation
        self._local: dict[str, np.ndarray] = {}

    def handle(self, common: bytes, own: bytes = b"") -> bytes:
        """Answers a request.

        Args:
            common: What all clients are asked.
            own: What this one is told besides; b"" for nothing.

        Raises:
            ValueError: The request cannot be read, or does not fit this client's model.
        """
        request = messages.unpack(common, "train", "evaluate")
        carried = messages.unpack(own, "local") if own else None
        answer: Callable[..., bytes] = {"train": self._train, "evaluate": self._evaluate}[
            request.kind
        ]
        try:
            return answer(request, carried)
        except clients.Unavailable as reason:
            return messages.pack("left", {"why": str(reason) or "it is not available"})

    def _train(self, request: Message, carried: Message | None) -> bytes:
        task = Task.of(request.header["task"])
        values = self._values(request, carried)
        data = clients.loaded(self.name, self._data)
        learner, logs = self._learner, {}
        if data.examples:
            logs = learner.train(values, data, task, client=self.name)
        else:  # nothing to learn from, and nothing that counts
            learner.set(values)
        local = {LOCAL + name: value for name, value in learner.values(learner.local).items()}
        if carried is None:
            self._local = learner.values(learner.local)
            local = {}
        arrays = {WEIGHTS + name: value for name, value in learner.values(learner.shared).items()}
        header = {"examples": data.examples, "logs": logs}
        return messages.pack("update", header, {**arrays, **local})

    def _evaluate(self, request: Message, carried: Message | None) -> bytes:
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
