"""How does the server get the sum of what its clients have learnt, as it is?

Here it sees what each client has learnt. With secure sums (secure/) it sees the sum alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from tfdist.federated import messages
from tfdist.federated.averaging import Sum
from tfdist.federated.channel import Channel, Request
from tfdist.federated.site import LOCAL, WEIGHTS, of
from tfdist.federated.task import Task


@dataclasses.dataclass
class Collected:
    """What has come of a round.

    Attributes:
        changes: The sum of the clients' weighted changes of the weights, float64, by name.
        total: The sum of the clients' weights: their examples.
        clients: Whose changes are in it.
        left: Why others are not, by name.
        logs: The means of the clients' logs, weighted in the same way.
        by_client: The logs of each client, where they are known.
    """

    changes: dict[str, np.ndarray]
    total: float
    clients: list[str]
    left: dict[str, str]
    logs: dict[str, float] = dataclasses.field(default_factory=dict)
    by_client: dict[str, dict[str, float]] = dataclasses.field(default_factory=dict)


class Collecting(Protocol):
    """A way to get the sum."""

    def collect(
        self, task: Task, values: Mapping[str, np.ndarray], local: dict[str, Any],
        names: Sequence[str],
    ) -> Collected:
        """Lets clients train, and returns the sum.

        Args:
            task: What they do.
            values: The weights that they begin with.
            local: The weights that stay with each client, by its name, which are brought up to
                date. They travel only where one job holds all clients.
            names: Who is asked.
        """


class Plain:
    """The server sees what each client has learnt, and adds it up.

    Args:
        channel: The way to the clients.
        shared: The names of the weights that travel back.
        carries_local: Whether weights that stay with clients travel with the requests.
        clip: The norm that all clients clip their changes to; None for all as it is.
    """

    def __init__(
        self,
        channel: Channel,
        shared: Sequence[str],
        *,
        carries_local: bool = False,
        clip: float | None = None,
    ) -> None:
        self._channel, self._shared, self._carries = channel, list(shared), carries_local
        self._clip = clip

    def collect(
        self, task: Task, values: Mapping[str, np.ndarray], local: dict[str, Any],
        names: Sequence[str],
    ) -> Collected:
        """See `Collecting`."""
        arrays = {WEIGHTS + name: value for name, value in values.items()}
        common = messages.pack("train", {"task": task.told()}, arrays)
        own = {name: carried(local, name) if self._carries else b"" for name in names}
        added = Sum({name: values[name] for name in self._shared})
        found = Collected(added.changes(), 0.0, [], {})
        weights: dict[str, float] = {}
        for name, answer in self._channel.ask(Request("train", task.round_number, common, own)):
            message = messages.unpack(answer, "update", "left")
            if message.kind == "left":
                found.left[name] = str(message.header["why"])
                continue
            weights[name] = examples_of(name, message)
            self._refuse_clip(name, message.header.get("clip"))
            is_change = self._clip is not None
            added.add(name, of(message, WEIGHTS), weights[name], is_change=is_change)
            found.clients.append(name)
            found.by_client[name] = dict(message.header["logs"])
            if self._carries:
                local[name] = of(message, LOCAL)
        missing = set(names) - {*found.clients, *found.left}
        found.left |= dict.fromkeys(sorted(missing), "it has not answered")
        found.total = added.total
        found.logs = weighted(found.by_client, weights)
        return found

    def _refuse_clip(self, name: str, found: Any) -> None:
        if found != self._clip:
            raise ValueError(
                f"The client {name!r} clips to {found!r}, and the server reckons with "
                f"{self._clip!r}. Give both the same privacy=UserPrivacy(clip=...)."
            )


def carried(local: Mapping[str, Any], name: str) -> bytes:
    """Returns what stays with a client, as a job carries it to the worker that is that client."""
    known = {LOCAL + key: value for key, value in local.get(name, {}).items()}
    return messages.pack("local", {}, known)


def examples_of(name: str, message: messages.Message) -> int:
    """Returns how many examples an answer is of.

    Raises:
        ValueError: It does not say so.
    """
    found = message.header.get("examples")
    if type(found) is not int or not 0 <= found < 2**53:
        raise ValueError(
            f"The client {name!r} says that it has {found!r} examples. Give it a whole number of "
            "them, from 0."
        )
    return found


def weighted(
    logs: Mapping[str, Mapping[str, float]], weights: Mapping[str, float]
) -> dict[str, float]:
    """Returns the means of logs over clients, weighted; of clients that have each log.

    >>> weighted({"a": {"loss": 1.0}, "b": {"loss": 4.0}}, {"a": 2, "b": 1})
    {'loss': 2.0}
    """
    found: dict[str, float] = {}
    for key in dict.fromkeys(key for told in logs.values() for key in told):
        having = [name for name in sorted(logs) if key in logs[name] and weights[name]]
        total = sum(weights[name] for name in having)
        if total:
            found[key] = sum(weights[name] * logs[name][key] for name in having) / total
    return found
