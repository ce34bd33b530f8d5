"""Are all workers there?  The roll call's server: one thread, at one address, for one job.

Junk, slow and oversized connections do not disturb it: a connection that does not announce a worker
in time and with the job's secret is closed, and learns nothing.
"""

from __future__ import annotations

import contextlib
import dataclasses
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from tfdist.cluster import messages
from tfdist.cluster.announcement import Announcement, find_differences, parse_announcement
from tfdist.cluster.wording import name_workers

PROTOCOL = 1
HANDSHAKE_SECS = 10.0  # within this a connection has to announce its worker
MAX_STRANGERS = 128  # connections that have not announced a worker yet, besides the workers'
# Connections that nobody has accepted yet; the system's own limit holds besides. Where there is no
# room, a worker may take itself for connected, and waits for a greeting that never comes.
_BACKLOG = 4096
ANSWER_SECS = 5.0  # how long the server waits for a worker to take its answer


@dataclasses.dataclass
class _Guest:
    """A connection to the server."""

    connection: socket.socket
    nonce: str
    deadline: float
    received: bytes = b""
    client_nonce: str = ""
    announcement: Announcement | None = None


class RollCall:
    """A roll call, held in a thread until all workers are there, time is up, or it is closed."""

    def __init__(
        self,
        *,
        size: int,
        secret: bytes,
        host: str = "127.0.0.1",
        port: int = 0,
        timeout_secs: float = 60.0,
        on_end: Callable[[], None] | None = None,
    ) -> None:
        """Starts to listen.

        Args:
            size: Number of workers to wait for.
            secret: The secret that they must know.
            host: Interface to listen on.
            port: Port to listen on; 0 chooses one.
            timeout_secs: Longest wait, in seconds.
            on_end: Called in the thread when there is a `result`.

        Raises:
            RuntimeError: Nothing can listen there.
        """
        self.size = size
        self._secret = secret
        self._timeout_secs = timeout_secs
        self._deadline = time.monotonic() + timeout_secs
        self._on_end = on_end
        self._guests: dict[socket.socket, _Guest] = {}
        # Those that have not announced a worker, the oldest first, so with the first deadline. Of a
        # thousand guests nobody looks through all of them whenever one of them says something.
        self._strangers: dict[socket.socket, _Guest] = {}
        self._present: dict[int, _Guest] = {}
        self._answer: dict[str, Any] | None = None
        self._ended = threading.Event()
        self._listener = _listen(host, port)
        shown = f"[{host}]" if ":" in host else host
        self.address = f"{shown}:{self._listener.getsockname()[1]}"
        self._wake, self._woken = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, name="tfdist-roll-call", daemon=True)
        self._thread.start()

    def __enter__(self) -> RollCall:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def present(self) -> tuple[int, ...]:
        """Ranks that have joined and are still connected, or have received their answer."""
        return tuple(sorted(self._present.copy()))  # the thread may add to it meanwhile

    @property
    def is_complete(self) -> bool:
        """Whether all workers are there and alike; true before the first of them is told."""
        return self._answer is not None and "addresses" in self._answer

    def result(self, *, timeout_secs: float | None = None) -> tuple[str, ...]:
        """Waits for the end of the roll call.

        Returns:
            "host:port" of each worker, in rank order.

        Raises:
            RuntimeError: Somebody is missing or differs.
        """
        if not self._ended.wait(timeout_secs) or self._answer is None:
            raise RuntimeError(
                f"The roll call at {self.address} has no result: {self._missing()} not come so far."
                " Wait for it, and look at the output of the missing."
            )
        if "error" in self._answer:
            raise RuntimeError(str(self._answer["error"]))
        return tuple(self._answer["addresses"])

    def close(self) -> None:
        """Ends the roll call; workers that still wait for an answer see the connection close."""
        with contextlib.suppress(OSError):
            self._wake.send(b"x")
        self._thread.join()

    # ------------------------------------------------------------------------- what the thread does

    def _serve(self) -> None:
        try:
            while self._answer is None and not self._step():
                self._answer = self._decide()
            self._send_answers()
        finally:
            self._selector.close()
            for connection in (self._listener, self._wake, self._woken, *self._guests):
                connection.close()
            self._ended.set()
        if self._answer is not None and self._on_end is not None:
            self._on_end()

    def _step(self) -> bool:
        """Serves connections that are ready; returns True when told to close."""
        now, until = time.monotonic(), self._deadline
        while self._strangers:
            oldest = next(iter(self._strangers.values()))
            if now < oldest.deadline:
                until = min(until, oldest.deadline)
                break
            self._dismiss(oldest)
        for key, _ in self._selector.select(max(0.0, until - now)):
            if key.fileobj is self._woken:
                return True
            if key.fileobj is self._listener:
                self._admit()
            elif key.fileobj in self._guests:  # it may have been dismissed a moment ago
                self._hear(self._guests[key.fileobj])
        return False

    def _admit(self) -> None:
        if len(self._strangers) >= self.size + MAX_STRANGERS:  # all workers may come at once
            self._dismiss(next(iter(self._strangers.values())))  # real ones announce themselves
        try:
            connection, _ = self._listener.accept()
        except OSError:
            time.sleep(0.01)  # such as too many open files: do not retry at full speed
            return
        guest = _Guest(connection, messages.make_nonce(), time.monotonic() + HANDSHAKE_SECS)
        self._guests[connection] = self._strangers[connection] = guest
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ)
        with contextlib.suppress(OSError):
            connection.send(messages.encode({"tfdist": PROTOCOL, "nonce": guest.nonce}))

    def _hear(self, guest: _Guest) -> None:
        try:
            piece = guest.connection.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            piece = b""
        guest.received += piece
        too_much = len(guest.received) > (0 if guest.announcement else messages.MAX_BYTES)
        if not piece or too_much:
            self._dismiss(guest)
        elif guest.received.endswith(b"\n"):
            self._meet(guest)

    def _meet(self, guest: _Guest) -> None:
        """Takes an announcement; a stranger only learns that it does not know the secret."""
        try:
            message = messages.decode(guest.received)
            guest.client_nonce, body = (messages.text_of(message, key) for key in ("nonce", "body"))
            mac = messages.text_of(message, "mac")
            parts = ("worker", guest.nonce, guest.client_nonce, body)
            if not messages.is_signed(self._secret, mac, *parts):
                self._tell(guest, {"refused": "it does not know the secret of this job"})
                return self._dismiss(guest)
            announcement = parse_announcement(body)
        except ValueError:
            return self._dismiss(guest)
        guest.received = b""
        if refusal := self._refuse(announcement):
            body = messages.encode({"error": refusal}).decode("ascii")
            self._tell(guest, self._sign(guest, body))
            return self._dismiss(guest)
        guest.announcement = announcement
        self._strangers.pop(guest.connection, None)
        self._present[announcement.rank] = guest
        return None

    def _refuse(self, announcement: Announcement) -> str:
        rank, size = announcement.rank, announcement.size
        if size != self.size or rank >= self.size:
            return (
                f"This worker says rank={rank} of size={size}, but the roll call is for"
                f" size={self.size} workers; start all workers of a job with the same size."
            )
        other = self._present[rank].announcement if rank in self._present else None
        if other is not None:
            return (
                f"rank={rank} has joined twice: from {other.address} and, as this worker, from"
                f" {announcement.address}. Give each worker a rank of its own."
            )
        return ""

    def _decide(self) -> dict[str, Any] | None:
        """Returns the answer for all workers, as soon as there is one."""
        if len(self._present) == self.size:
            announcements = [guest.announcement for _, guest in sorted(self._present.items())]
            present = [announcement for announcement in announcements if announcement is not None]
            if table := find_differences(present):
                return {
                    "error": "The workers of this job are not alike:\n"
                    f"{table}\nStart all of them with the same program, flags and packages."
                }
            return {"addresses": [announcement.address for announcement in present]}
        if time.monotonic() >= self._deadline:
            return {
                "error": f"Roll call at {self.address}: {self._missing()} not come within"
                f" timeout_secs={self._timeout_secs:g} ({len(self._present)} of {self.size}"
                " came). Look at the output of the missing, or allow them more time."
            }
        return None

    def _missing(self) -> str:
        missing = [rank for rank in range(self.size) if rank not in self._present]
        return f"{name_workers(missing)} {'has' if len(missing) == 1 else 'have'}"

    def _send_answers(self) -> None:
        if self._answer is None:
            return
        body = messages.encode(self._answer).decode("ascii")
        for guest in self._present.values():
            guest.connection.settimeout(ANSWER_SECS)
            self._tell(guest, self._sign(guest, body))

    def _sign(self, guest: _Guest, body: str) -> dict[str, str]:
        mac = messages.sign(self._secret, "server", guest.nonce, guest.client_nonce, body)
        return {"body": body, "mac": mac}

    def _tell(self, guest: _Guest, message: Mapping[str, Any]) -> None:
        with contextlib.suppress(OSError):  # a worker that has gone needs no answer
            guest.connection.sendall(messages.encode(message))

    def _dismiss(self, guest: _Guest) -> None:
        self._selector.unregister(guest.connection)
        guest.connection.close()
        self._guests.pop(guest.connection, None)
        self._strangers.pop(guest.connection, None)
        if guest.announcement is not None:
            self._present.pop(guest.announcement.rank, None)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        if host == "127.0.0.1" and port == 0:
            raise RuntimeError(
                f"This host has no loopback interface ({error}), over which the workers on it meet."
                " Bring it up: ip link set lo up."
            ) from error
        raise RuntimeError(
            f"The roll call cannot listen at host={host!r}, port={port!r} ({error}); name an"
            " interface of this host and a free port (0 chooses one)."
        ) from error
    listener.setblocking(False)
    return listener
