"""How do the workers connect outside of TensorFlow?  Each to the chief, with a secret.

Synopsis (the worker got the secret and the port in some other way):

    >>> import concurrent.futures
    >>> listener = open_listener("127.0.0.1")
    >>> port = listener.getsockname()[1]
    >>> with concurrent.futures.ThreadPoolExecutor() as pool, listener:
    ...     worker = pool.submit(connect, "127.0.0.1", port, rank=1, secret=b"secret")
    ...     found = accept(listener, size=2, secret=b"secret")
    >>> sorted(found)
    [1]
    >>> for connection in (worker.result(), *found.values()):
    ...     connection.close()

Later messages on such a connection are not signed: only its beginning is authenticated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import socket
import time
from typing import Any

from tfdist.cluster import messages

JOIN_SECS = 20.0  # for all workers to reach the chief, once they know where
_HANDSHAKE_SECS = 3.0  # for one connection
_MAX_STRANGERS = 128  # connections that have not said yet who they are, besides the workers'
_BACKLOG = 4096  # as of the roll call
_LONGEST_SELECT_SECS = 3600.0  # the system's own limit is some days


def open_listener(host: str) -> socket.socket:
    """Listens at a host's own address, on a port that the system chooses.

    On all interfaces if the name is not this host's own, as behind a Kubernetes service.

    Raises:
        OSError: That is not possible.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=_BACKLOG)
    except OSError:
        return socket.create_server(("", 0), backlog=_BACKLOG)


def accept(
    listener: socket.socket, *, size: int, secret: bytes, timeout_secs: float = JOIN_SECS
) -> dict[int, socket.socket]:
    """Accepts, on the chief, only workers that know the secret.

    Args:
        listener: The socket that they connect to.
        size: Number of workers, including the chief.
        secret: The secret that they must know.
        timeout_secs: Longest wait for all of them, in seconds.

    Returns:
        Connections by rank; some are missing where they did not come in time.
    """
    found: dict[int, socket.socket] = {}
    guests: dict[Any, _Guest] = {}
    deadline = time.monotonic() + timeout_secs
    with selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        listener.setblocking(False)
        while len(found) < size - 1 and (now := time.monotonic()) < deadline:
            while guests and now >= (oldest := next(iter(guests.values()))).deadline:
                _dismiss(oldest, guests, selector)
            until = min(deadline, oldest.deadline) if guests else deadline
            for key, _ in selector.select(max(0.0, min(until - now, _LONGEST_SELECT_SECS))):
                if key.fileobj is listener:
                    _admit(listener, guests, selector, most=size + _MAX_STRANGERS)
                    continue
                guest = guests.get(key.fileobj)  # None where it was dismissed a moment ago
                answer = guest.hear() if guest else None
                if guest and answer is not None:
                    rank = _rank_in(answer, guest.nonce, secret=secret, size=size)
                    if rank is None or rank in found:
                        _dismiss(guest, guests, selector)
                    else:
                        selector.unregister(guest.connection)
                        found[rank] = guests.pop(guest.connection).connection
                        found[rank].setblocking(True)
        for rest in list(guests.values()):
            _dismiss(rest, guests, selector)
    return found


@dataclasses.dataclass
class _Guest:
    """A connection that has not said yet who it is; many are heard at once."""

    connection: socket.socket
    nonce: str
    deadline: float
    received: bytes = b""

    def hear(self) -> bytes | None:
        """Returns its whole line, b"" where none will come, or None as long as one may."""
        try:
            piece = self.connection.recv(65536)
        except BlockingIOError:
            return None
        except OSError:
            return b""
        self.received += piece
        if not piece or len(self.received) > messages.MAX_BYTES:
            return b""
        return self.received[:-1] if self.received.endswith(b"\n") else None


def _admit(
    listener: socket.socket, guests: dict[Any, _Guest], selector: selectors.BaseSelector, *,
    most: int,
) -> None:
    try:
        connection, _ = listener.accept()
    except OSError:
        time.sleep(0.01)  # such as too many open files: do not retry at full speed
        return
    if len(guests) >= most:
        _dismiss(next(iter(guests.values())), guests, selector)  # the oldest: workers answer soon
    guest = _Guest(connection, messages.make_nonce(), time.monotonic() + _HANDSHAKE_SECS)
    guests[connection] = guest
    connection.setblocking(False)
    selector.register(connection, selectors.EVENT_READ)
    with contextlib.suppress(OSError):
        connection.send(messages.encode({"nonce": guest.nonce}))


def _dismiss(
    guest: _Guest, guests: dict[Any, _Guest], selector: selectors.BaseSelector
) -> None:
    selector.unregister(guest.connection)
    guests.pop(guest.connection).connection.close()


def _rank_in(line: bytes, nonce: str, *, secret: bytes, size: int) -> int | None:
    """Returns the rank of a worker that knows the secret."""
    try:
        answer = messages.decode(line)
        rank, mac = messages.text_of(answer, "rank"), messages.text_of(answer, "mac")
        if not messages.is_signed(secret, mac, "heartbeat", nonce, rank):
            return None
        return int(rank) if 0 < int(rank) < size else None
    except ValueError:
        return None


def connect(
    host: str, port: int, *, rank: int, secret: bytes, timeout_secs: float = JOIN_SECS
) -> socket.socket:
    """Connects a worker to the chief.

    Raises:
        OSError: It cannot be reached, or does not answer as the chief would.
    """
    deadline = time.monotonic() + timeout_secs
    connection = socket.create_connection((host, port), timeout=timeout_secs)
    try:
        greeting = messages.decode(messages.receive(connection, deadline=deadline))
        nonce = messages.text_of(greeting, "nonce")
        mac = messages.sign(secret, "heartbeat", nonce, str(rank))
        connection.sendall(messages.encode({"rank": str(rank), "mac": mac}))
    except ValueError as error:
        connection.close()
        raise OSError(str(error)) from error
    except OSError:
        connection.close()
        raise
    return connection
