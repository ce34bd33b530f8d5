"""How does a server reach clients that connect to it?  It asks who is connected, all at once.

A client may go and come back at any time. What it was asked when it went it has not answered, and
the next round asks it again. Over TLS its certificate has to have its name.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import logging
import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence

import numpy as np

from tfdist.federated import messages
from tfdist.federated.channel import Request
from tfdist.federated.sites.connections import (
    HELLO_BYTES,
    HELLO_SECS,
    Connection,
    name_in,
    parsed,
)
from tfdist.federated.sites.tls import TLS, names_of, wrapped

_LOG = logging.getLogger("tfdist")
_MOST_WAITING = 64  # connections that have not said their name yet


class OverSites:
    """A server's side of all connections, as a `Channel`.

    Args:
        clients: Who may connect.
        address: Where to listen; with port 0 a free one is taken.
        tls: The server's certificate; None on this host alone.
        most_bytes: The longest message of a client.
        answer_secs: How long a client may take to answer.
    """

    def __init__(
        self,
        clients: Sequence[str],
        address: str,
        *,
        tls: TLS | None,
        most_bytes: int,
        answer_secs: float,
    ) -> None:
        host, port = parsed(address)
        self._context = wrapped("server", tls, host=host)
        self._clients, self._most_bytes = frozenset(clients), most_bytes
        self._answer_secs = answer_secs
        self._connected: dict[str, Connection] = {}
        self._changed = threading.Condition()
        self._waiting = threading.BoundedSemaphore(_MOST_WAITING)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, port), family=family)
        self.address = f"{host}:{self._listener.getsockname()[1]}"
        self._threads = concurrent.futures.ThreadPoolExecutor(len(self._clients) or 1)
        threading.Thread(target=self._accept, daemon=True).start()

    def names(self) -> list[str]:
        """See `Channel`: who is connected."""
        with self._changed:
            return sorted(self._connected)

    def wait_for(self, count: int, *, secs: float) -> list[str]:
        """Waits until so many are connected, or the time is over; returns who is."""
        deadline = time.monotonic() + secs
        with self._changed:
            while len(self._connected) < count and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            return sorted(self._connected)

    def ask(self, request: Request) -> Iterator[tuple[str, bytes]]:
        """See `Channel`."""
        asked = {
            name: self._threads.submit(self._asked, name, request) for name in sorted(request.own)
        }
        for name, answer in asked.items():
            yield name, answer.result()

    def end(self, message: bytes) -> None:
        """Tells all clients that it is over, and closes."""
        for name in self.names():
            with contextlib.suppress(OSError):
                self._connected[name].send(message, secs=self._answer_secs)
        self.close()

    def close(self) -> None:
        """Closes all connections."""
        self._listener.close()
        with self._changed:
            connected, self._connected = self._connected, {}
        for connection in connected.values():
            connection.close()
        self._threads.shutdown(wait=True)

    def _asked(self, name: str, request: Request) -> bytes:
        """Returns a client's answer, or that it has left."""
        with self._changed:
            connection = self._connected.get(name)
        if connection is None:
            return messages.pack("left", {"why": "it is not connected"})
        parts = {"common": request.common, "own": request.own[name]}
        arrays = {key: np.frombuffer(part, np.uint8) for key, part in parts.items()}
        header = {"phase": request.phase, "round": request.round_number}
        try:
            connection.send(messages.pack("ask", header, arrays), secs=self._answer_secs)
            return connection.receive(secs=self._answer_secs)
        except OSError as error:
            self._lost(name, connection)
            why = f"its connection was lost: {error}"
            if isinstance(error, TimeoutError):
                why = f"it has not answered within {self._answer_secs:g} seconds"
            _LOG.warning("The client %r has left in the phase %s: %s", name, request.phase, error)
            return messages.pack("left", {"why": why})

    def _lost(self, name: str, connection: Connection) -> None:
        connection.close()
        with self._changed:
            if self._connected.get(name) is connection:
                del self._connected[name]

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:  # closed
                return
            if not self._waiting.acquire(blocking=False):
                sock.close()
                continue
            threading.Thread(target=self._greet, args=(sock,), daemon=True).start()

    def _greet(self, sock: socket.socket) -> None:
        """Lets a client in that is who it says."""
        try:
            sock.settimeout(HELLO_SECS)
            if self._context is not None:
                sock = self._context.wrap_socket(sock, server_side=True)
            connection = Connection(sock, most_bytes=HELLO_BYTES)
            name = name_in(connection.receive(secs=HELLO_SECS))
            if why := self._unwanted(name, connection):
                _LOG.warning("A connection was refused: %s", why)
                connection.send(messages.pack("refused", {"why": why}), secs=HELLO_SECS)
                connection.close()
                return
            connection.most_bytes = self._most_bytes
            connection.send(messages.pack("welcome", {}), secs=HELLO_SECS)
            with self._changed:
                before = self._connected.get(name)
                self._connected[name] = connection
                self._changed.notify_all()
            if before is not None:  # it has come back before its old connection was seen to end
                before.close()
        except (OSError, ssl.SSLError, ValueError) as error:
            _LOG.warning("A connection has ended before it said a name: %s", error)
            sock.close()
        finally:
            self._waiting.release()

    def _unwanted(self, name: str, connection: Connection) -> str:
        if name not in self._clients:
            return f"{name!r} is none of the clients."
        if self._context is not None and name not in names_of(connection.certificate):
            return f"the certificate of {name!r} has another name."
        return ""
