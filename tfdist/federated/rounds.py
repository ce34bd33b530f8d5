"""How does a round go?  Choose clients, let them train, move the server's weights, evaluate.

What a run has come to is a `Progress`, which is all that a checkpoint holds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfdist.federated import clients, messages
from tfdist.federated.channel import Channel, Request
from tfdist.federated.collecting import Collected, Collecting, carried, examples_of, weighted
from tfdist.federated.server import Server
from tfdist.federated.site import WEIGHTS
from tfdist.federated.task import Task
from tfdist.federated.user_privacy import Releasing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the rounds are like.

    Attributes:
        rounds: How many.
        fraction: Which part of the clients takes part in each, above 0 and up to 1.
        task: What a client does; its round's number is filled in.
        min_clients: With fewer clients than these at its end, a round is an error.
        validation_freq: Rounds between two evaluations.
    """

    rounds: int
    fraction: float
    task: Task
    min_clients: int = 1
    validation_freq: int = 1

    def __post_init__(self) -> None:
        for name in ("rounds", "min_clients", "validation_freq"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number from 1.")
        if not isinstance(self.fraction, (int, float)) or not 0 < self.fraction <= 1:
            raise ValueError(
                f"fraction={self.fraction!r} must be above 0 and at most 1: the part of the "
                "clients that each round asks."
            )


@dataclasses.dataclass
class Progress:
    """What a run has come to.

    Attributes:
        done: Rounds that are done.
        told: Of each of them: who took part, who left and why, examples, and logs.
        local: The weights that stay with each client, by its name, where the job carries them.
    """

    done: int = 0
    told: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    local: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)


class Rounds:
    """The server's side of all rounds.

    Args:
        plan: What they are like.
        server: The server's weights.
        channel: The way to the clients.
        collecting: How the sum of their changes is got.
        validation: Returns logs of weights on data of the server; None for no such data.
        evaluates_clients: Whether the clients evaluate on their own data.
        carries_local: Whether weights that stay with clients travel with the requests.
        releasing: Makes the rounds private; None for exact ones.
    """

    def __init__(
        self,
        plan: Plan,
        server: Server,
        channel: Channel,
        collecting: Collecting,
        *,
        validation: Callable[[Mapping[str, np.ndarray]], dict[str, float]] | None = None,
        evaluates_clients: bool = False,
        carries_local: bool = False,
        releasing: Releasing | None = None,
    ) -> None:
        self.plan, self.server = plan, server
        self._channel, self._collecting = channel, collecting
        self._validation, self._evaluates_clients = validation, evaluates_clients
        self._carries_local, self._releasing = carries_local, releasing

    def run(self, progress: Progress) -> dict[str, Any]:
        """Runs the next round; returns what is told of it.

        Raises:
            RuntimeError: Too few clients were left.
        """
        number = progress.done
        task = dataclasses.replace(self.plan.task, round_number=number)
        names = self._drawn(self._channel.names(), number)
        found = self._collecting.collect(task, self.server.values, progress.local, names)
        told = {
            "round": number, "clients": found.clients, "left": found.left,
            "examples": found.total, "logs": found.logs, "by_client": found.by_client,
        }
        if self._releasing is None:
            self._refuse_few(found, number)
            self.server.move({name: sum_ / found.total for name, sum_ in found.changes.items()})
        else:  # a round without a client is one too, and who was there is not told
            self.server.move(self._releasing.mean(found.changes))
            told |= {"clients": [], "left": {}, "examples": self._releasing.expected}
            told |= {"logs": {"epsilon": self._releasing.spent(number + 1)}, "by_client": {}}
        if (number + 1) % self.plan.validation_freq == 0:
            told |= self._validated(task, progress)
        progress.done += 1
        progress.told.append(told)
        return told

    def _drawn(self, names: list[str], number: int) -> list[str]:
        plan = self.plan
        if self._releasing is not None:
            return self._releasing.drawn(names)
        return clients.chosen(
            names, round_number=number, fraction=plan.fraction, seed=plan.task.seed
        )

    def _refuse_few(self, found: Collected, number: int) -> None:
        there = len(found.clients)
        if there < self.plan.min_clients or not found.total:
            why = "; ".join(f"{name!r}: {reason}" for name, reason in found.left.items())
            raise RuntimeError(
                f"Round {number + 1} has ended with {there} clients and {found.total:g} examples, "
                f"and needs {self.plan.min_clients} and 1 ({why or 'nobody has left'}). Let more "
                "clients take part, with a larger fraction; the same command goes on from the "
                "last checkpoint."
            )

    def _validated(self, task: Task, progress: Progress) -> dict[str, Any]:
        """Evaluates on the server's data, and on that of the clients."""
        logs: dict[str, float] = {}
        by_client: dict[str, dict[str, float]] = {}
        if self._validation is not None:
            logs |= {f"val_{key}": v for key, v in self._validation(self.server.values).items()}
        if self._evaluates_clients:
            mean, by_client = self._of_clients(task, progress)
            logs |= {f"clients_val_{key}": value for key, value in mean.items()}
        return {"val_logs": logs, "val_by_client": by_client}

    def _of_clients(
        self, task: Task, progress: Progress
    ) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
        """Returns the mean of the clients' own evaluations, and those of each."""
        arrays = {WEIGHTS + name: value for name, value in self.server.values.items()}
        common = messages.pack("evaluate", {"task": task.told()}, arrays)
        local = progress.local if self._carries_local else None
        own = {n: b"" if local is None else carried(local, n) for n in self._channel.names()}
        by_client: dict[str, dict[str, float]] = {}
        counts: dict[str, float] = {}
        request = Request("evaluate", task.round_number, common, own)
        for name, answer in self._channel.ask(request):
            message = messages.unpack(answer, "evaluation", "left")
            if message.kind == "evaluation":
                counts[name] = examples_of(name, message)
                by_client[name] = dict(message.header["logs"])
        return weighted(by_client, counts), by_client
