"""How does a site be the server?  It waits for the clients to connect, and runs the rounds."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfdist.federated import joint_options, messages
from tfdist.federated.fitting import validation_of
from tfdist.federated.learner import Learner
from tfdist.federated.record.kept import Kept
from tfdist.federated.record.outcome import Federated
from tfdist.federated.record.running import facts_of, run_rounds
from tfdist.federated.record.telling import Teller
from tfdist.federated.rounds import Plan, Rounds
from tfdist.federated.secure_sums import SecureSums
from tfdist.federated.server import Server
from tfdist.federated.site import WEIGHTS
from tfdist.federated.sites.over_sites import OverSites
from tfdist.federated.sites.tls import TLS
from tfdist.federated.task import Task
from tfdist.federated.user_privacy import UserPrivacy
from tfdist.strategy.factory import get_strategy

_LOG = logging.getLogger("tfdist")
_BESIDE_BYTES = 2**24  # of a message, beside the weights


def serve(
    build_fn: Callable[[], keras.Model],
    clients: Sequence[str],
    *,
    address: str,
    rounds: int,
    tls: TLS | None = None,
    fraction: float = 1.0,
    local_epochs: int = 1,
    batch_size: int = 32,
    shuffle: bool = True,
    server_optimizer: keras.optimizers.Optimizer | None = None,
    proximal: float = 0.0,
    keep_local: Any = None,
    seed: int = 0,
    secure: SecureSums | None = None,
    pinned: Mapping[str, bytes] | None = None,
    privacy: UserPrivacy | None = None,
    min_clients: int = 1,
    wait_secs: float = 600.0,
    answer_secs: float = 3600.0,
    validation_data: Any = None,
    evaluates_clients: bool = False,
    validation_freq: int = 1,
    device: str = "auto",
    checkpoint_dir: Any = None,
    verbose: Any = "auto",
    trackers: Sequence[Any] | None = None,
    on_listening: Callable[[str], None] | None = None,
) -> Federated:
    """Trains with clients that `join` from other processes and hosts, as their server.

    What is not told here is as in `fit`. A client that is not there when a round begins takes no
    part in it, and may come back.

    Args:
        build_fn: As in `fit`; its weights are those that the first round begins with.
        clients: The names of all clients; nobody else may connect.
        address: Where to listen, host and port; port 0 takes a free one.
        rounds: As in `fit`.
        tls: The server's certificate; without one it listens on loopback only.
        fraction: As in `fit`, of those that are connected.
        local_epochs: As in `fit`.
        batch_size: As in `fit`.
        shuffle: As in `fit`.
        server_optimizer: As in `fit`.
        proximal: As in `fit`.
        keep_local: As in `fit`; what stays with a client stays at its site.
        seed: As in `fit`.
        secure: As in `fit`.
        pinned: With `secure`, public identities of clients, by which the server refuses others
            before the clients do. It may know none.
        privacy: As in `fit`; the server adds the noise.
        min_clients: As in `fit`; before each round the server waits for so many.
        wait_secs: How long it waits for all clients before the first round, and for `min_clients`
            before the others.
        answer_secs: How long a client may take to answer, before it counts as one that has left.
        validation_data: As in `fit`.
        evaluates_clients: Whether clients evaluate on their own `validation_data`.
        validation_freq: As in `fit`.
        device: What the server evaluates on.
        checkpoint_dir: As in `fit`.
        verbose: As in `fit`.
        trackers: As in `fit`.
        on_listening: Is called with the address when clients may connect.

    Returns:
        The model and the history.

    Raises:
        ValueError: An argument is invalid, or a client has sent what does not fit.
        RuntimeError: Too few clients were there, or left.
    """
    task = Task(
        round_number=0, seed=seed, local_epochs=local_epochs, batch_size=batch_size,
        shuffle=shuffle, proximal=proximal,
    )
    plan = Plan(
        rounds=rounds, fraction=fraction, task=task, min_clients=min_clients,
        validation_freq=validation_freq,
    )
    joint_options.refuse(
        secure, privacy, plan=plan, validation_clients=True if evaluates_clients else None
    )
    names = named(clients)
    learner = Learner(build_fn, get_strategy(device, cluster=None), keep_local=keep_local)
    numbers = sum(math.prod(shape) for shape in learner.shapes.values())
    channel = OverSites(
        names, address, tls=tls, answer_secs=answer_secs,
        most_bytes=8 * numbers + _BESIDE_BYTES,
    )
    try:
        _LOG.info("Waiting for clients at %s.", channel.address)
        if on_listening is not None:
            on_listening(channel.address)
        releasing = joint_options.releasing(privacy, plan, population=len(names))
        engine = Rounds(
            plan, Server(learner.values(), learner.trainable, server_optimizer), channel,
            joint_options.collecting(channel, learner, secure, privacy, pinned=pinned),
            validation=validation_of(learner, validation_data, task),
            evaluates_clients=evaluates_clients, releasing=releasing,
        )
        facts = facts_of(task, fraction, names, server_optimizer, keep_local)
        facts |= joint_options.told(secure, privacy, releasing)
        channel.wait_for(len(names), secs=wait_secs)
        progress = run_rounds(
            engine, Kept(checkpoint_dir, facts), Teller(trackers, rounds=rounds, verbose=verbose),
            facts, before=lambda: _wait(channel, min_clients, wait_secs),
        )
        arrays = {WEIGHTS + name: value for name, value in engine.server.values.items()}
        told = [] if privacy else [_public(one) for one in progress.told]
        channel.end(messages.pack("end", {"told": told}, arrays))
        learner.set(engine.server.values)
        return Federated(learner.model, progress.told)
    finally:
        channel.close()


def named(clients: Sequence[str]) -> list[str]:
    """Returns the names of clients in their order.

    Raises:
        ValueError: They are no names, or one comes twice.
    """
    names = [] if isinstance(clients, str) else list(clients)
    if not names or len(set(names)) < len(names) or not all(isinstance(n, str) for n in names):
        raise ValueError(
            f"clients={clients!r} must be the names of the clients that may connect, each once. "
            "Give a list, such as ['site a', 'site b']."
        )
    return sorted(names)


def _wait(channel: OverSites, count: int, secs: float) -> None:
    found = channel.wait_for(count, secs=secs)
    if len(found) < count:
        raise RuntimeError(
            f"{len(found)} clients are connected after {secs:g} seconds ({found}), and "
            f"{count} are needed. Start the others, or wait longer with wait_secs; the same "
            "command goes on from the last checkpoint."
        )


def _public(told: Mapping[str, Any]) -> dict[str, Any]:
    """Returns of a round what all clients may know: nothing of single ones."""
    return {
        "round": told["round"], "clients": told["clients"], "left": {}, "by_client": {},
        "examples": told["examples"], "logs": told["logs"], "val_logs": told.get("val_logs", {}),
    }

