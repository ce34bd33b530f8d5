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

import socket
import time

from tfdist.cluster import messages

JOIN_SECS = 20.0  # for all workers to reach the chief, once they know where
_HANDSHAKE_SECS = 3.0  # for one connection


def open_listener(host: str) -> socket.socket:
    """Listens at a host's own address, on a port that the system chooses.

    On all interfaces if the name is not this host's own, as behind a Kubernetes service.

    Raises:
        OSError: That is not possible.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=1024)
    except OSError:
        return socket.create_server(("", 0), backlog=1024)


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
    deadline = time.monotonic() + timeout_secs
    while len(found) < size - 1 and (left := deadline - time.monotonic()) > 0:
        listener.settimeout(left)
        try:
            connection, _ = listener.accept()
        except OSError:
            break
        rank = _rank_of_guest(connection, secret=secret, size=size)
        if rank is None or rank in found:
            connection.close()
        else:
            found[rank] = connection
    return found


def _rank_of_guest(connection: socket.socket, *, secret: bytes, size: int) -> int | None:
    nonce, deadline = messages.make_nonce(), time.monotonic() + _HANDSHAKE_SECS
    try:
        connection.settimeout(_HANDSHAKE_SECS)
        connection.sendall(messages.encode({"nonce": nonce}))
        answer = messages.decode(messages.receive(connection, deadline=deadline))
        rank, mac = messages.text_of(answer, "rank"), messages.text_of(answer, "mac")
        if not messages.is_signed(secret, mac, "heartbeat", nonce, rank):
            return None
        return int(rank) if 0 < int(rank) < size else None
    except (OSError, ValueError):
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
