"""How is a model trained on data that stays with its clients?

Synopsis:

    >>> import keras, numpy as np
    >>> def build():
    ...     keras.utils.set_random_seed(0)
    ...     model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ...     model.compile(keras.optimizers.SGD(0.1), "mse")
    ...     return model
    >>> clients = {"a": (np.ones((6, 2)), np.ones(6)), "b": (np.ones((3, 2)), np.zeros(3))}
    >>> trained = fit(build, clients, rounds=2, batch_size=3, device="cpu", verbose=0)
    >>> [told["clients"] for told in trained.rounds], [told["examples"] for told in trained.rounds]
    ([['a', 'b'], ['a', 'b']], [9.0, 9.0])
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.cluster.detection import detect_cluster
from tfdist.cluster.wording import shorten
from tfdist.communication.presence import Presence
from tfdist.communication.workers import Workers
from tfdist.federated import clients as clients_lib
from tfdist.federated import joint_options, messages
from tfdist.federated.channel import Channel, DropOut, InProcess
from tfdist.federated.learner import Learner
from tfdist.federated.over_workers import OverWorkers
from tfdist.federated.record.kept import Kept
from tfdist.federated.record.outcome import Federated
from tfdist.federated.record.running import facts_of, run_rounds
from tfdist.federated.record.telling import Teller
from tfdist.federated.rounds import Plan, Progress, Rounds
from tfdist.federated.secure import keys
from tfdist.federated.secure.client import SecureClient
from tfdist.federated.secure_sums import SecureSums
from tfdist.federated.server import Server
from tfdist.federated.site import WEIGHTS, Site, of
from tfdist.federated.task import Task
from tfdist.federated.user_privacy import UserPrivacy
from tfdist.strategy.factory import get_strategy


def fit(
    build_fn: Callable[[], keras.Model],
    clients: Any,
    *,
    rounds: int,
    fraction: float = 1.0,
    local_epochs: int = 1,
    batch_size: int = 32,
    shuffle: bool = True,
    server_optimizer: keras.optimizers.Optimizer | None = None,
    proximal: float = 0.0,
    keep_local: Any = None,
    seed: int = 0,
    # What the server sees, and what the model tells.
    secure: SecureSums | None = None,
    privacy: UserPrivacy | None = None,
    # Who has to be there.
    min_clients: int = 1,
    drop_out: DropOut | None = None,
    # What is evaluated.
    validation_data: Any = None,
    validation_clients: Any = None,
    validation_freq: int = 1,
    # How it runs, what is saved, and who is told.
    device: str = "auto",
    checkpoint_dir: Any = None,
    verbose: Any = "auto",
    trackers: Sequence[Any] | None = None,
) -> Federated:
    """Trains by federated averaging, in this process or on all workers of a job.

    In each round some clients train from the server's weights on their own data, and the server
    goes on from the mean of their weights, weighted by their examples. Started by `tfdist.launch`,
    every worker calls it with the same arguments; the clients are spread over the workers, and the
    result has the same bits on any number of them, if each has as many threads and the same
    hardware. For clients that are sites of their own, see `serve` and `join`.

    What a client draws depends on the seed, the round and its name alone. A `tf.data.Dataset` that
    draws by itself needs seeds of its own.

    Args:
        build_fn: Returns a compiled model with weights, as it is before the first round. Its
            optimizer is that of the clients, in its first state in each round. It is called once
            on each worker, in the scope of the strategy that `device` stands for.
        clients: Data by client: a dict of names, or a folder with a folder for each. Data is
            `(x, y)` or `(x, y, sample_weight)`; a `tf.data.Dataset` of batches; a folder with
            `x.npy`, `y.npy` and perhaps `sample_weight.npy`, or an `.npz` file of these; or a
            function that returns one of them, which is called when the client takes part, and may
            raise `Unavailable`.
        rounds: How many rounds.
        fraction: Which part of the clients each round asks, drawn by `seed`; at least one.
        local_epochs: Passes of a client over its data in a round.
        batch_size: Examples of a step of a client, over all replicas of its device.
        shuffle: Whether clients shuffle arrays in each pass, by `seed`.
        server_optimizer: Moves the server's weights, with the negative mean change as gradient,
            such as `keras.optimizers.Adam(0.01)`. None: they become the clients' mean.
        proximal: mu of FedProx: clients add `mu/2 * ||theta - theta_0||^2` to their loss, and
            report it.
        keep_local: Which weights stay with each client instead of being averaged: "statistics"
            (all that are not trained), "normalization" (all of `BatchNormalization`: FedBN, Li et
            al. 2021, arXiv:2102.07623), or a function of a variable. The returned model has their
            first values.
        seed: Who takes part, and what clients draw.
        secure: Lets the server see the sum of the clients' changes alone; see `SecureSums`. Losses
            of the clients are not told then. Here it shows what it costs and changes; it protects
            where clients are sites of their own.
        privacy: Makes the model tell little of any client; see `UserPrivacy`. `fraction` is then
            the probability of each client, drawn in secret, and the logs hold "epsilon", what was
            spent, in place of the losses. Noise is drawn anew after a resume.
        min_clients: A round that ends with fewer is an error.
        drop_out: Says for a round (from 0) and a client in which phase it leaves: "train" or
            "evaluate", and with secure sums "keys", "shares", "masked", "consistency" or "unmask";
            or None. To try out what happens.
        validation_data: Data that the server evaluates on, as that of one client: logs "val_loss".
        validation_clients: Data by client, on which each evaluates the server's weights: logs
            "clients_val_loss", means weighted by examples. Means of metrics such as AUC are not
            the metric of all the data.
        validation_freq: Rounds from one evaluation to the next.
        device: What each worker's clients train on; see `tfdist.get_strategy`. Several devices
            train each client exactly data-parallel. In a job, and for logical CPUs, call
            `tfdist.get_strategy(device)` before a `server_optimizer` is made, which starts
            TensorFlow.
        checkpoint_dir: A folder, or a `Checkpointer`: saved after each round, and resumed exactly.
        verbose: 0 for silence, 1 for a line for each round on the chief; "auto" for 1.
        trackers: As in `tfdist.fit`; the step is the round.

    Returns:
        The model, the history, and what stays with the clients; the same on every worker.

    Raises:
        ValueError: An argument is invalid, or a client's data or model cannot be used.
        RuntimeError: Too few clients were left, or one has sent what is not finite.
    """
    task = Task(
        round_number=0, seed=seed, local_epochs=local_epochs, batch_size=batch_size,
        shuffle=shuffle, proximal=proximal,
    )
    plan = Plan(
        rounds=rounds, fraction=fraction, task=task, min_clients=min_clients,
        validation_freq=validation_freq,
    )
    sources = clients_lib.named(clients)
    tested = clients_lib.named(validation_clients) if validation_clients is not None else {}
    if unknown := sorted(set(tested) - set(sources)):
        raise ValueError(
            f"validation_clients has {shorten(unknown)}, which clients has not. Give both the same "
            "names."
        )
    workers, strategy = _places(device)
    learner = Learner(build_fn, strategy, keep_local=keep_local)
    carries = bool(learner.local)
    joint_options.refuse(
        secure, privacy, plan=plan, validation_clients=validation_clients, carries_local=carries
    )
    with _at_work(workers):
        known = _identities(sources, secure, workers)
        sites = {
            name: Site(
                name, learner, data=source, validation=tested.get(name),
                secure=_secured(name, secure, known), clip=privacy.clip if privacy else None,
            )
            for name, source in sources.items()
        }
        held = InProcess(sites, drop_out)
        job = OverWorkers(held, workers) if workers is not None else None
        if job is not None and workers is not None and not workers.is_chief:
            return _followed(job, learner)
        with _ended(job) as ending:
            channel: Channel = job or held
            releasing = joint_options.releasing(privacy, plan, population=len(sources))
            engine = Rounds(
                plan, Server(learner.values(), learner.trainable, server_optimizer), channel,
                joint_options.collecting(channel, learner, secure, privacy, carries_local=carries),
                validation=validation_of(learner, validation_data, task),
                evaluates_clients=bool(tested), carries_local=carries, releasing=releasing,
            )
            facts = facts_of(task, fraction, sources, server_optimizer, keep_local)
            facts |= joint_options.told(secure, privacy, releasing)
            teller = Teller(trackers, rounds=rounds, verbose=verbose)
            progress = run_rounds(engine, Kept(checkpoint_dir, facts), teller, facts)
            ending.append(_end(engine.server, progress))
            learner.end()
            learner.set(engine.server.values)
            return Federated(learner.model, progress.told, progress.local)


def _identities(
    names: Any, secure: SecureSums | None, workers: Workers | None
) -> dict[str, keys.Identity]:
    """Returns identities that this job has made for its clients; {} without secure sums."""
    if secure is None:
        return {}
    private = {name: os.urandom(32).hex() for name in names}
    if workers is not None:
        private = json.loads(workers.from_chief(json.dumps(private).encode()))
    return {name: keys.Identity(bytes.fromhex(key)) for name, key in private.items()}


def _secured(
    name: str, secure: SecureSums | None, known: dict[str, keys.Identity]
) -> SecureClient | None:
    if secure is None:
        return None
    pinned = {other: identity.public for other, identity in known.items()}
    return secure.client(name, known[name], pinned)


def _places(device: str) -> tuple[Workers | None, tf.distribute.Strategy]:
    """Returns the workers of the job, None without others, and what this one's clients train on."""
    if tf.distribute.has_strategy():
        raise ValueError(
            "tfdist.federated.fit was called inside the scope of a strategy, and makes its own for "
            "each client. Call it outside of `with strategy.scope():`, and say the device by "
            "device='...'."
        )
    cluster = detect_cluster(os.environ)
    workers = None
    if cluster is not None and cluster.size > 1:
        workers = Workers(get_strategy(device))  # first: it sets up how the workers talk
    return workers, get_strategy(device, cluster=None)


def _at_work(workers: Workers | None) -> Any:
    if workers is None:
        return contextlib.nullcontext()
    return Presence(workers).run("federated.fit")


@contextlib.contextmanager
def _ended(job: OverWorkers | None) -> Iterator[list[bytes]]:
    """Ends the other workers with the message that is put into the list, or with the error."""
    ending: list[bytes] = []
    try:
        yield ending
    except BaseException as error:
        ending[:] = [messages.pack("end", {"error": f"{type(error).__name__}: {error}"})]
        raise
    finally:
        if job is not None:
            job.end(ending[0])


def _end(server: Server, progress: Progress) -> bytes:
    arrays = {WEIGHTS + name: value for name, value in server.values.items()}
    for number, client in enumerate(sorted(progress.local)):
        arrays |= {f"{number}/{name}": v for name, v in progress.local[client].items()}
    header = {"told": progress.told, "local": sorted(progress.local), "error": ""}
    return messages.pack("end", header, arrays)


def _followed(job: OverWorkers, learner: Learner) -> Federated:
    """Works for the chief; returns what it returns."""
    message = job.follow()
    learner.end()
    learner.set(of(message, WEIGHTS))
    local = {name: of(message, f"{i}/") for i, name in enumerate(message.header["local"])}
    return Federated(learner.model, message.header["told"], local)


def validation_of(
    learner: Learner, data: Any, task: Task
) -> Callable[..., dict[str, float]] | None:
    """Returns what evaluates weights on data of the server; None without data."""
    if data is None:
        return None
    read = clients_lib.loaded("validation_data", data)
    return lambda values: learner.evaluate(values, read, task)
