"""How do bytes travel over a connection?  Each message behind its length, up to a limit.

A peer that announces more than it may send, or that stops, is an error, and costs no memory beyond
what it has sent.
"""

from __future__ import annotations

import contextlib
import socket
import ssl
import time

_LENGTH = 8
_PIECE = 2**20
HELLO_BYTES = 4096  # what a peer may send before it is known
HELLO_SECS = 10.0
_VERSION = "tfdist federated 1"


class Connection:
    """A connection that messages go over.

    Args:
        sock: The socket, with TLS around it where there is any.
        most_bytes: The longest message that is read.
    """

    def __init__(self, sock: socket.socket, *, most_bytes: int) -> None:
        self._socket, self.most_bytes = sock, most_bytes
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    @property
    def certificate(self) -> dict[str, object]:
        """The peer's certificate; {} without TLS."""
        if isinstance(self._socket, ssl.SSLSocket):
            return dict(self._socket.getpeercert() or {})
        return {}

    def send(self, message: bytes, *, secs: float | None = None) -> None:
        """Sends a message.

        Raises:
            OSError: The connection is broken, or the time is over.
        """
        self._socket.settimeout(secs)
        self._socket.sendall(len(message).to_bytes(_LENGTH, "little"))
        self._socket.sendall(message)

    def receive(self, *, secs: float | None = None) -> bytes:
        """Returns the next message.

        Raises:
            OSError: The connection is broken, the message too long, or the time is over.
        """
        deadline = None if secs is None else time.monotonic() + secs
        length = int.from_bytes(self._read(_LENGTH, deadline), "little")
        if length > self.most_bytes:
            raise OSError(f"A message of {length} bytes came, where {self.most_bytes} are the most")
        return self._read(length, deadline)

    def close(self) -> None:
        """Closes it, which also ends a read that waits in another thread."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _read(self, length: int, deadline: float | None) -> bytes:
        found = bytearray()
        while len(found) < length:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("The connection has ended, since its time is over")
            self._socket.settimeout(left)
            piece = self._socket.recv(min(_PIECE, length - len(found)))
            if not piece:
                raise ConnectionError("The connection has ended")
            found += piece
        return bytes(found)


def hello(name: str) -> bytes:
    """Returns what a client says first."""
    return f"{_VERSION}\n{name}".encode()


def name_in(greeting: bytes) -> str:
    """Returns the name in what a client said first, "" where it is nothing of the kind."""
    version, _, name = greeting.decode(errors="replace").partition("\n")
    return name if version == _VERSION else ""


def parsed(address: str) -> tuple[str, int]:
    """Returns host and port.

    >>> parsed("127.0.0.1:8040"), parsed("[::1]:8040")
    (('127.0.0.1', 8040), ('::1', 8040))

    Raises:
        ValueError: It is no address.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise ValueError(
            f"address={address!r} is no host and port. Give one such as '127.0.0.1:8040'."
        )
    return host.strip("[]"), int(port)
