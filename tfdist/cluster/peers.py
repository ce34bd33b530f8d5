"""Do the other workers listen?  A wait with a time limit, before TensorFlow's, which has none.

Synopsis (a world of one has nobody to wait for):

    >>> from tfdist.cluster.ports import reserved_port
    >>> with reserved_port() as port:
    ...     pass
    >>> await_peers([f"127.0.0.1:{port}"], rank=0, timeout_secs=1.0)

Each worker listens at its own address until it has reached every other worker once, whether that is
still waiting or already runs TensorFlow. A worker says so, and TensorFlow's server begins with its
settings; a program that is silent, or says something else, is none. Those who connect send nothing.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

from tfdist.cluster.wording import name_workers, shorten

_LOG = logging.getLogger("tfdist")
_EVERY_SECS = 30.0  # between two lines that say who is still missing
_PAUSE_SECS = 0.1
_TRY_SECS = 2.0  # for one connection
_MOST_GUESTS = 1024  # connections that are kept open
_HERE = b"tfdist worker\n"
_SETTINGS = 4  # the frame of HTTP/2 with which gRPC's server begins: three bytes of length, this


def await_peers(addresses: Sequence[str], *, rank: int, timeout_secs: float) -> None:
    """Waits until every worker has been seen to listen.

    Args:
        addresses: "host:port" of each worker, in rank order.
        rank: This worker's, over all workers.
        timeout_secs: Longest wait, in seconds.

    Raises:
        RuntimeError: This worker's port is taken, or somebody did not come in time.
    """
    missing = {peer: "did not listen" for peer in range(len(addresses)) if peer != rank}
    start = time.monotonic()
    next_line = start + _EVERY_SECS
    with _greeting(_listen(addresses[rank], rank=rank)):
        while missing:
            missing = {peer: said for peer in missing if (said := _call(addresses[peer]))}
            now = time.monotonic()
            if missing and now > start + timeout_secs:
                raise RuntimeError(
                    f"Worker {rank} waited {timeout_secs:g} s, and {_name(missing, addresses)}."
                    " Start all workers of the cluster, and check their addresses and the firewall;"
                    " python -m tfdist.launch starts and watches all of them."
                )
            if missing and now > next_line:
                named = _name(missing, addresses)
                _LOG.warning("still waiting: %s after %.0f s", named, now - start)
                next_line = now + _EVERY_SECS
            if missing:
                time.sleep(_PAUSE_SECS)


def _listen(address: str, *, rank: int) -> socket.socket:
    """Opens this worker's own port on all interfaces, as TensorFlow's server does afterwards."""
    port = int(address.rpartition(":")[2])
    dual = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    try:
        return socket.create_server(("", port), family=family, backlog=1024, dualstack_ipv6=dual)
    except OSError as error:
        raise RuntimeError(
            f"Worker {rank} cannot listen at its address {address} ({error.strerror}): is another"
            " process, or another worker of the same rank, running there? End it, or give this"
            " worker another port."
        ) from error


@contextlib.contextmanager
def _greeting(listener: socket.socket) -> Iterator[None]:
    """Says to all who connect that a worker is here, in a thread."""
    guests: collections.deque[socket.socket] = collections.deque()
    is_over = threading.Event()

    def greet() -> None:
        while not is_over.is_set():
            with contextlib.suppress(OSError):  # also at each end of the listener's short time
                connection, _ = listener.accept()
                guests.append(connection)
                connection.settimeout(_PAUSE_SECS)
                connection.sendall(_HERE)
            # Not closed at once: what a guest has sent and nobody read would cut the greeting off.
            while len(guests) > _MOST_GUESTS:
                guests.popleft().close()

    listener.settimeout(_PAUSE_SECS)
    thread = threading.Thread(target=greet, name="tfdist-peers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()
        for end in (listener, *guests):
            end.close()


def _call(address: str) -> str:
    """Connects to a worker; says what is wrong with what is there, or "" where it is a worker."""
    host, _, port = address.rpartition(":")
    try:
        connection = socket.create_connection((host.strip("[]"), int(port)), timeout=_TRY_SECS)
    except OSError:  # refused, too slow, or a name that is not known yet
        return "did not listen"
    said = b""
    deadline = time.monotonic() + _TRY_SECS
    with connection, contextlib.suppress(OSError):
        while len(said) < len(_HERE) and (left := deadline - time.monotonic()) > 0:
            connection.settimeout(left)
            piece = connection.recv(len(_HERE) - len(said))
            said += piece
            if not piece:
                break
    is_tensorflow = len(said) > 3 and said[0] == 0 and said[3] == _SETTINGS
    if said == _HERE or is_tensorflow:
        return ""
    return f"is another program, which {f'says {shorten(said)}' if said else 'is silent'}"


def _name(missing: Mapping[int, str], addresses: Sequence[str]) -> str:
    """Says who is missing, and what is there in their place."""
    by_problem: dict[str, list[int]] = {}
    for peer, said in sorted(missing.items()):
        by_problem.setdefault(said, []).append(peer)
    return ", and ".join(
        f"{name_workers(peers)} ({', '.join(addresses[peer] for peer in peers)}) {said}"
        for said, peers in by_problem.items()
    )
