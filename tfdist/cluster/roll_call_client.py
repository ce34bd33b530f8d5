"""Where are the others?  A worker's side of the roll call, before TensorFlow starts.

Synopsis (one process holds the roll call, every worker joins it):

    >>> from tfdist.cluster.roll_call import RollCall
    >>> with RollCall(size=1, secret=b"secret") as roll_call:
    ...     addresses = join(roll_call.address, rank=0, size=1, secret=b"secret")
    >>> len(addresses)
    1

The server greets with a nonce. The worker announces its rank, its address and the facts that must
be alike, signed together with both nonces. When all are there, each gets the addresses of all
workers, or the one error for all, signed in the same way.
"""

from __future__ import annotations

import dataclasses
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tfdist.cluster import messages
from tfdist.cluster.announcement import Announcement
from tfdist.cluster.ports import reserved_port
from tfdist.cluster.roll_call import ANSWER_SECS, PROTOCOL
from tfdist.cluster.wording import shorten

_GUESS_SECS = 2.0  # for one of several addresses, which may belong to another program
_GREETING_SECS = 10.0  # until a connection without a greeting is given up for another one


def join(
    server: str,
    *,
    rank: int,
    size: int,
    secret: bytes,
    host: str = "127.0.0.1",
    facts: Mapping[str, Any] | None = None,
    timeout_secs: float = 60.0,
) -> tuple[str, ...]:
    """Announces this worker, and waits until all are there.

    Args:
        server: "host:port" of the roll call, which may start later than this worker; or several,
            separated by commas, only one of which is the roll call's.
        rank: This worker's rank, over all workers.
        size: Number of workers.
        secret: The same on both sides.
        host: Name or address under which the others reach this worker; its port is chosen here.
        facts: What must be alike on all workers, by name; values that JSON can hold.
        timeout_secs: Longest wait, in seconds.

    Returns:
        "host:port" of each worker, in rank order; this worker's own port is still free.

    Raises:
        RuntimeError: Somebody is missing, differs, or has this rank already; or there is no roll
            call at this address, or it knows another secret.
    """
    until = time.monotonic() + timeout_secs
    with reserved_port() as port:
        address = f"{host}:{port}"
        announcement = Announcement(rank, size, address, dict(facts or {}))
        body = messages.encode(dataclasses.asdict(announcement)).decode("ascii")
        answer = _call(server.split(","), body, secret=secret, until=until, secs=timeout_secs)
    if "error" in answer:
        raise RuntimeError(str(answer["error"]))
    addresses = tuple(str(a) for a in answer.get("addresses", ()))
    if len(addresses) != size or addresses[rank] != address:
        raise RuntimeError(
            f"The roll call at {server} answered with {shorten(addresses)}, where"
            f" rank={rank} of size={size} is at {address}; start all workers of one job together."
        )
    return addresses


def _call(
    servers: Sequence[str], body: str, *, secret: bytes, until: float, secs: float
) -> dict[str, Any]:
    """Asks each server in turn, repeatedly: the roll call may not have started yet."""
    pause = 0.02
    while True:
        reasons = []
        for server in servers:
            try:
                patience = _GREETING_SECS if len(servers) == 1 else _GUESS_SECS
                deadline = min(until, time.monotonic() + patience)
                connection, nonce = _connect(server, deadline=deadline)
            except (OSError, ValueError) as error:  # TimeoutError is an OSError
                reasons.append(str(error) or type(error).__name__)
                continue
            # The server's limit should end first, since its error says who is missing.
            deadline = until + ANSWER_SECS
            with connection:
                answer = _ask(
                    connection, nonce, body, server=server, secret=secret, deadline=deadline
                )
            if "refused" not in answer:
                return answer
            reasons.append(str(answer["refused"]))
            if len(servers) == 1:
                raise RuntimeError(
                    f"The roll call at {server} refused this worker: {answer['refused']}. Give all"
                    " workers of a job the same TFDIST_SECRET."
                )
        if time.monotonic() + pause > until:
            raise RuntimeError(
                f"No roll call could be reached at {' or '.join(servers)} within"
                f" timeout_secs={secs} ({reasons[0]}). Check that the first worker or the launcher"
                " is running and that no firewall is between."
            )
        time.sleep(pause)
        pause = min(2 * pause, 1.0)


def _connect(server: str, *, deadline: float) -> tuple[socket.socket, str]:
    """Connects, and takes the greeting."""
    host, _, port = server.rpartition(":")
    left = max(0.1, deadline - time.monotonic())
    connection = socket.create_connection((host.strip("[]"), int(port)), timeout=left)
    try:
        greeting = messages.decode(messages.receive(connection, deadline=deadline))
        if greeting.get("tfdist") != PROTOCOL:
            raise ValueError(f"it speaks {shorten(greeting)}, not protocol {PROTOCOL}")
        return connection, messages.text_of(greeting, "nonce")
    except BaseException:
        connection.close()
        raise


def _ask(
    connection: socket.socket,
    server_nonce: str,
    body: str,
    *,
    server: str,
    secret: bytes,
    deadline: float,
) -> dict[str, Any]:
    nonce = messages.make_nonce()
    mac = messages.sign(secret, "worker", server_nonce, nonce, body)
    try:
        connection.sendall(messages.encode({"nonce": nonce, "body": body, "mac": mac}))
        answer = messages.decode(messages.receive(connection, deadline=deadline) or b"{}")
    except (OSError, ValueError) as error:
        reason = str(error) or type(error).__name__
        raise RuntimeError(
            f"The roll call at {server} broke off before all workers were there ({reason}). Look"
            " for the first error in the output of the launcher and of the other workers."
        ) from error
    if answer.get("refused"):
        return {"refused": answer["refused"]}
    if not answer:
        raise RuntimeError(
            f"The roll call at {server} was closed before all workers were there. Look for the"
            " first error in the output of the launcher and of the other workers."
        )
    signed, mac = str(answer.get("body")), str(answer.get("mac"))
    if not messages.is_signed(secret, mac, "server", server_nonce, nonce, signed):
        raise RuntimeError(
            f"The answer of the roll call at {server} is not signed with this job's secret;"
            " another program may be listening there. Choose another port."
        )
    return messages.decode(signed)
