"""Is this worker at work, and are its peers?  Signs of life while a run goes on.

The launcher sees how far each worker has come (cluster/progress.py), and the workers of a strategy
see whether the others are alive (cluster/heartbeat.py). A worker that waits for a lost one is ended
here, with an error that names the lost worker, and the exit code `contract.PEER_LOST`.

A run is a call of `fit`, `evaluate` or `predict`, or a loop over `distribute_dataset`. Outside of
runs no worker is ended: a peer that has gone may have finished its part. A worker that begins the
next run without it is ended then.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NoReturn, ParamSpec, TypeVar

import tensorflow as tf

from tfdist.cluster import contract, side_channel
from tfdist.cluster.contract import PEER_LOST, write_failure
from tfdist.cluster.heartbeat import Heart, Loss
from tfdist.cluster.places import Whereabouts
from tfdist.cluster.progress import Progress
from tfdist.cluster.tf_config import TRAINING_TYPES
from tfdist.cluster.wording import name_workers
from tfdist.communication.workers import Workers
from tfdist.compat.notes import note_of, set_note

_P = ParamSpec("_P")
_T = TypeVar("_T")

_LOG = logging.getLogger("tfdist")
_SILENCE_SECS = 5.0
_LAST_WORDS_SECS = 1.0
# The errors of collectives when a peer has gone, depending on how its connection closed.
_OF_A_PEER = (
    tf.errors.UnavailableError, tf.errors.AbortedError, tf.errors.CancelledError,
    tf.errors.InternalError, tf.errors.DeadlineExceededError,
)
_OF_ANOTHER_PLACE = "ollective"  # of "Shape mismatch in the collective instance", a user's error


class Presence:
    """Shows this worker to the launcher and to the strategy's other workers, and them to it.

    Args:
        workers: The workers of the strategy.
    """

    def __init__(self, workers: Workers) -> None:
        self._progress = Progress()
        self._workers = workers

    def tick(self) -> None:
        """Shows that something was begun or done."""
        self._workers.whereabouts.come_to("a batch of a loop")
        self._progress.tick()

    def ticking(self, fn: Callable[_P, _T]) -> Callable[_P, _T]:
        """Returns a function that shows the beginning and the end of `fn`."""
        whereabouts = self._workers.whereabouts

        def placed(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            whereabouts.come_to("steps")
            return fn(*args, **kwargs)

        return self._progress.ticking(placed)

    @contextlib.contextmanager
    def run(self, call: str = "", *, is_shared: bool = True) -> Iterator[None]:
        """Marks a run.

        Args:
            call: The name of the function; "" for a loop over the data.
            is_shared: Whether the other workers take part in it.

        Raises:
            RuntimeError: It is the first one, and another worker does something else.
        """
        whereabouts = self._workers.whereabouts
        with whereabouts.inside(call, is_shared=is_shared):
            heart = self._heart(call) if is_shared and self._workers.has_others else None
            with self._progress, heart.run() if heart else contextlib.nullcontext():
                try:
                    yield
                except tf.errors.OpError as error:
                    if heart and _is_of_a_peer(error):
                        heart.await_loss()  # it names the lost peer, and TensorFlow does not
                    raise

    def _heart(self, call: str) -> Heart | None:
        """Returns the strategy's heart, which beats from the first run to the process's end."""
        strategy = self._workers.strategy
        known = note_of(strategy, "heart", ())
        if known == ():  # None means that the workers are not connected
            try:
                known = _make_heart(self._workers)
            except tf.errors.OpError as error:
                if not _is_of_a_peer(error):
                    raise
                raise RuntimeError(
                    f"Worker {self._workers.rank} begins {call or 'a loop'}, the first thing that "
                    "the workers do together, and another worker has ended or does something else "
                    f"({error.message.splitlines()[0]}). Let every worker make the same calls, "
                    "look for the first error among all of them, and start all of them again."
                ) from error
            set_note(strategy, "heart", known)
        return known


def _is_of_a_peer(error: BaseException | None) -> bool:
    """Tells whether an error may come from what another worker does, or does not do."""
    if isinstance(error, tf.errors.InvalidArgumentError):
        return _OF_ANOTHER_PLACE in error.message
    return isinstance(error, _OF_A_PEER)


def _make_heart(workers: Workers) -> Heart | None:
    """Connects the workers, which call it together; None if they must not connect.

    Raises:
        RuntimeError: Not all of them can connect; on all workers.
    """
    rank, size = workers.rank, workers.count
    addresses = _addresses(workers.strategy)
    secs = _silence_secs(os.environ)
    host = addresses[0].rpartition(":")[0].strip("[]") if addresses else ""
    listener, note = None, {"secs": secs, "port": 0, "secret": secrets.token_hex(32)}
    if rank == 0 and secs and host:
        with contextlib.suppress(OSError):  # port 0 then tells the others that there is no listener
            listener = side_channel.open_listener(host)
            note["port"] = listener.getsockname()[1]
    note = json.loads(workers.from_chief(json.dumps(note).encode() if rank == 0 else b""))
    if not note["secs"]:
        return None
    connections = _connected(listener, host, note, rank=rank, size=size)
    # The chief checks who has come; every other worker, whether it reached the chief.
    missing = [r for r in range(1, size) if r not in connections] if rank == 0 else []
    is_complete = not missing if rank == 0 else 0 in connections
    if workers.any(not is_complete):
        for connection in connections.values():
            connection.close()
        where = f" ({name_workers(missing)} did not reach {host}:{note['port']})" if missing else ""
        raise RuntimeError(
            "The workers are not connected besides TensorFlow, so the loss of one could leave the "
            f"others waiting for ever{where}. Let TCP pass between them, or set "
            f"{contract.HEARTBEAT_SECS}=0 on all workers to do without."
        )
    on_loss = functools.partial(
        _end, addresses=addresses, rank=rank, whereabouts=workers.whereabouts
    )
    heart = Heart(
        connections, rank=rank, silence_secs=note["secs"], on_loss=on_loss,
        whereabouts=workers.whereabouts,
    )
    atexit.register(_leave, heart)
    return heart


def _leave(heart: Heart) -> None:
    """Ends an unfinished loop over the data when its process ends."""
    error = getattr(sys, "last_value", None)
    if _is_of_a_peer(error):
        heart.await_loss()
    heart.leave(is_well=error is None)


def _connected(
    listener: socket.socket | None, host: str, note: Mapping[str, str], *, rank: int, size: int
) -> dict[int, socket.socket]:
    secret = note["secret"].encode()
    if listener is not None:
        with listener:
            return side_channel.accept(listener, size=size, secret=secret)
    if rank == 0 or not note["port"]:
        return {}
    try:
        return {0: side_channel.connect(host, int(note["port"]), rank=rank, secret=secret)}
    except OSError:
        return {}


def _addresses(strategy: tf.distribute.Strategy) -> tuple[str, ...]:
    """Returns "host:port" of each worker, in rank order; () where the strategy does not say."""
    resolver = strategy.cluster_resolver
    jobs = resolver.cluster_spec().as_dict() if resolver is not None else {}
    return tuple(address for job in TRAINING_TYPES for address in jobs.get(job, ()))


def _silence_secs(environ: Mapping[str, str]) -> float:
    text = environ.get(contract.HEARTBEAT_SECS) or str(_SILENCE_SECS)
    try:
        secs = float(text)
    except ValueError:
        secs = -1.0
    if not 0 <= secs < 1e6 or 0 < secs < 2:  # a line goes out every second
        raise ValueError(
            f"{contract.HEARTBEAT_SECS}={text!r} must be a number of seconds from 2, or 0 for no"
            " heartbeat between the workers; set it."
        )
    return secs


def _end(
    loss: Loss, *, addresses: tuple[str, ...], rank: int, whereabouts: Whereabouts
) -> NoReturn:
    """Ends this process from a thread: the main thread may wait in a collective for ever."""
    doing = whereabouts.place.doing
    text = (
        f"worker {loss.rank} ({addresses[loss.rank]}) {loss.why}, and worker {rank} waits for it in"
        f" vain{f', at {doing}' * bool(doing)}. Look for the first error in the output of that"
        " worker, let every worker make the same calls, and start all of them again."
    )
    text = loss.why if loss.is_of_all else text
    lost = rank if loss.is_of_all else loss.rank
    # Another thread may hold the lock of a stream for ever, and the end must not wait for it.
    words = threading.Thread(target=_say, args=(text, rank, lost), daemon=True)
    words.start()
    words.join(_LAST_WORDS_SECS)
    os._exit(PEER_LOST)


def _say(text: str, rank: int, lost: int) -> None:
    folder = os.environ.get(contract.RUN_DIR)
    with contextlib.suppress(OSError):
        if folder:
            write_failure(
                folder, rank=rank, at=time.monotonic(), exit_code=PEER_LOST,
                traceback=f"RuntimeError: {text}", lost=lost,
            )
    with contextlib.suppress(OSError, ValueError):
        print(f"tfdist: {text}", file=sys.stderr, flush=True)
        if sys.stdout is not None:  # it may have been closed before Python started
            sys.stdout.flush()
