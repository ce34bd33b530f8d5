"""How do the launcher and its agents on other hosts talk?  Signed messages on one connection.

Synopsis (one end in the launcher, the other wherever an engine has put an agent):

    >>> import socket, threading
    >>> ends = socket.socketpair()
    >>> answering = threading.Thread(target=answer, args=(ends[1],), kwargs={
    ...     "secret": b"secret", "who": {"rank": 1}})
    >>> answering.start()
    >>> wire, who = greet(ends[0], secret=b"secret")
    >>> answering.join(); who
    {'rank': 1}
    >>> for end in ends:
    ...     end.close()

Both sides first prove that they know the job's secret, and then sign every message with its number:
pickles and commands travel here, so nobody else must be able to send any.
"""

from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Mapping
from typing import Any

from tfdist.cluster import messages

HANDSHAKE_SECS = 10.0
MAX_DATA = 1 << 20  # bytes that one message carries besides its fields
_PROTOCOL = 1


class Wire:
    """One end of a connection; `send` may be called in any thread, `receive` in one."""

    def __init__(
        self, connection: socket.socket, *, secret: bytes, session: str, is_launcher: bool
    ) -> None:
        self._connection, self._secret, self._session = connection, secret, session
        names = ("launcher", "agent") if is_launcher else ("agent", "launcher")
        self._own_name, self._other_name = names
        self._num_sent = self._num_received = 0
        self._lock = threading.Lock()
        self._reader = connection.makefile("rb")
        _keep_alive(connection)

    def send(self, kind: str, *, data: bytes = b"", **fields: Any) -> None:
        """Sends a message.

        Args:
            kind: What it is about.
            data: Up to MAX_DATA bytes.
            fields: What JSON can hold.

        Raises:
            OSError: The other end has gone.
        """
        with self._lock:
            body = messages.encode({"kind": kind, "size": len(data), **fields}).decode("ascii")
            digest = hashlib.sha256(data).hexdigest()
            parts = (self._own_name, self._session, str(self._num_sent), body, digest)
            mac = messages.sign(self._secret, *parts)
            self._num_sent += 1
            self._connection.sendall(messages.encode({"body": body, "mac": mac}) + data)

    def receive(self) -> tuple[dict[str, Any], bytes]:
        """Waits for a message.

        Returns:
            Its fields, "kind" among them, and its data.

        Raises:
            EOFError: The other end has gone.
            ValueError: What came is not a message of the other end.
        """
        try:
            line = self._reader.readline(messages.MAX_BYTES + 1)
            if not line.endswith(b"\n"):
                raise EOFError("The connection has ended.")
            message = messages.decode(line)
            body, mac = (messages.text_of(message, key) for key in ("body", "mac"))
            fields = messages.decode(body)
            messages.text_of(fields, "kind")
            size = fields.get("size")
            if type(size) is not int or not 0 <= size <= MAX_DATA:
                raise ValueError(f"A message cannot have size={size!r}.")
            data = self._reader.read(size)
        except OSError as error:
            raise EOFError(f"The connection has ended ({error}).") from error
        if len(data) != size:
            raise EOFError("The connection has ended.")
        digest = hashlib.sha256(data).hexdigest()
        parts = (self._other_name, self._session, str(self._num_received), body, digest)
        if not messages.is_signed(self._secret, mac, *parts):
            raise ValueError("A message is not signed with the secret of this job.")
        self._num_received += 1
        return fields, data

    def close(self) -> None:
        """Ends the connection."""
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)  # wakes the thread that receives
        self._connection.close()


def greet(connection: socket.socket, *, secret: bytes) -> tuple[Wire, dict[str, Any]]:
    """Accepts, in the launcher, an agent that knows the secret.

    Returns:
        The wire, and the facts that the agent sent about itself.

    Raises:
        ValueError: It is a stranger.
        OSError: It has gone, or says nothing.
    """
    deadline = time.monotonic() + HANDSHAKE_SECS
    nonce = messages.make_nonce()
    connection.settimeout(HANDSHAKE_SECS)
    connection.sendall(messages.encode({"tfdist-agent": _PROTOCOL, "nonce": nonce}))
    answer = messages.decode(messages.receive(connection, deadline=deadline))
    other, body, mac = (messages.text_of(answer, key) for key in ("nonce", "body", "mac"))
    if not messages.is_signed(secret, mac, "agent greets", nonce, other, body):
        raise ValueError("It does not know the secret of this job.")
    who = messages.decode(body)
    connection.sendall(
        messages.encode({"mac": messages.sign(secret, "launcher greets", nonce, other)})
    )
    wire = Wire(connection, secret=secret, session=nonce + other, is_launcher=True)
    # The agent must read that line before anything else is sent, or it would read too much.
    try:
        wire.receive()
    except EOFError as error:
        raise OSError(str(error)) from error
    connection.settimeout(None)
    return wire, who


def answer(connection: socket.socket, *, secret: bytes, who: Mapping[str, Any]) -> Wire:
    """Identifies an agent to the launcher.

    Args:
        connection: To the launcher.
        secret: The job's secret.
        who: Facts about the agent.

    Raises:
        ValueError: The program that listens there is not the launcher of this job.
        OSError: It has gone, or says nothing.
    """
    deadline = time.monotonic() + HANDSHAKE_SECS
    connection.settimeout(HANDSHAKE_SECS)
    greeting = messages.decode(messages.receive(connection, deadline=deadline))
    if greeting.get("tfdist-agent") != _PROTOCOL:
        raise ValueError(f"It does not speak protocol {_PROTOCOL} of tfdist's agents.")
    other, nonce = messages.text_of(greeting, "nonce"), messages.make_nonce()
    body = messages.encode(who).decode("ascii")
    mac = messages.sign(secret, "agent greets", other, nonce, body)
    connection.sendall(messages.encode({"nonce": nonce, "body": body, "mac": mac}))
    reply = messages.decode(messages.receive(connection, deadline=deadline) or b"{}")
    if not messages.is_signed(secret, str(reply.get("mac")), "launcher greets", other, nonce):
        raise ValueError("It does not know the secret of this job.")
    connection.settimeout(None)
    wire = Wire(connection, secret=secret, session=other + nonce, is_launcher=False)
    wire.send("ready")
    return wire


def _keep_alive(connection: socket.socket) -> None:
    """Lets the system detect within a minute that the other host has gone."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in (("TCP_KEEPIDLE", 20), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 4)):
            if hasattr(socket, name):
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
