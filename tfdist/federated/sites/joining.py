"""How does a site be a client?  It connects to the server, and answers until it is told the end."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import ssl
import time
from collections.abc import Callable, Mapping
from typing import Any

import keras

from tfdist.federated import messages
from tfdist.federated.joint_options import refuse_clip
from tfdist.federated.learner import Learner
from tfdist.federated.record.outcome import Federated
from tfdist.federated.secure.keys import Identity
from tfdist.federated.secure_sums import SecureSums
from tfdist.federated.site import WEIGHTS, Site, of
from tfdist.federated.sites.connections import HELLO_SECS, Connection, hello, parsed
from tfdist.federated.sites.tls import TLS, wrapped
from tfdist.federated.user_privacy import UserPrivacy
from tfdist.strategy.factory import get_strategy

_LOG = logging.getLogger("tfdist")
_PAUSE_SECS = 0.5  # before it connects again


def join(
    build_fn: Callable[[], keras.Model],
    name: str,
    data: Any,
    *,
    address: str,
    tls: TLS | None = None,
    validation_data: Any = None,
    keep_local: Any = None,
    secure: SecureSums | None = None,
    identity: Identity | str | os.PathLike[str] | None = None,
    pinned: Mapping[str, bytes] | None = None,
    privacy: UserPrivacy | None = None,
    device: str = "auto",
    patience_secs: float = 600.0,
) -> Federated:
    """Takes part in the federated training of a server, as one client.

    The data stays here. What is sent is decided here too: with `secure`, the client refuses to send
    what it has learnt in the open, whatever the server asks; with `privacy`, it clips.

    Args:
        build_fn: Returns the model, compiled as at the server.
        name: This client's name, which its certificate has to have.
        data: Its data, as in `fit`.
        address: The server's host and port.
        tls: This client's certificate; without one only a server on this host is connected to.
        validation_data: What it evaluates on where the server asks; metrics are sent in the open.
        keep_local: As in `fit`: these weights never leave this site, and are lost when it ends.
        secure: Secure sums, as at the server.
        identity: With `secure`, what this client signs with: an `Identity`, or the file of one.
        pinned: With `secure`, the public identities of all clients, by name. They have to come
            another way than through the server: who gives them could be in the midst of all.
        privacy: What the client clips to, as at the server; the server adds the noise.
        device: What it trains on; see `tfdist.get_strategy`. Several devices train data-parallel.
        patience_secs: How long to try to reach the server, at the beginning and after a break.

    Returns:
        The model as the server had it in the end, and what has stayed here.

    Raises:
        ValueError: An argument is invalid, the server refuses this client, or asks what the client
            refuses.
        RuntimeError: The server cannot be reached.
    """
    host, port = parsed(address)
    context = wrapped("client", tls, host=host)
    if (secure is None) != (identity is None) or (secure is None) != (pinned is None):
        raise ValueError(
            "secure, identity and pinned belong together: a client signs with its identity, and "
            "knows the others by theirs. Give all three, or none."
        )
    refuse_clip(secure, privacy)
    learner = Learner(build_fn, get_strategy(device, cluster=None), keep_local=keep_local)
    own = None
    if secure is not None and identity is not None and pinned is not None:
        mine = identity if isinstance(identity, Identity) else Identity.load(identity)
        own = secure.client(name, mine, pinned)
    site = Site(
        name, learner, data=data, validation=validation_data, secure=own,
        clip=privacy.clip if privacy else None,
    )
    while True:
        connection = _connected(name, (host, port), context, patience_secs)
        try:
            end, failure = _answered(connection, site)
        except OSError as error:
            _LOG.warning("The connection to the server has ended: %s. It is tried again.", error)
            continue
        finally:
            connection.close()
        if failure is not None:
            raise failure
        learner.end()
        learner.set(of(end, WEIGHTS))
        return Federated(learner.model, end.header["told"], {name: site.local})


def _connected(
    name: str, place: tuple[str, int], context: ssl.SSLContext | None, secs: float
) -> Connection:
    """Returns a connection on which the server has let this client in."""
    deadline = time.monotonic() + secs
    while True:
        try:
            connection, answer = _greeted(name, place, context)
            break
        except ssl.SSLEOFError as error:
            _wait(error, place, deadline)
        except ssl.SSLError as error:
            raise ValueError(
                f"The server at {place[0]}:{place[1]} and this client do not trust each other: "
                f"{error}. Give both certificates of one authority, and call the server by the "
                "name that is in its own."
            ) from error
        except OSError as error:
            _wait(error, place, deadline)
    if answer.kind == "refused":
        connection.close()
        raise ValueError(
            f"The server does not let {name!r} in: {str(answer.header.get('why'))!r}. Use the name "
            "that the server has among its clients, and a certificate with that name."
        )
    return connection


def _greeted(
    name: str, place: tuple[str, int], context: ssl.SSLContext | None
) -> tuple[Connection, messages.Message]:
    """Returns a new connection, and what the server says to this client's name."""
    sock = socket.create_connection(place, timeout=HELLO_SECS)
    try:
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=place[0])
        connection = Connection(sock, most_bytes=2**40)  # of the server, which is known
        connection.send(hello(name), secs=HELLO_SECS)
        return connection, messages.unpack(
            connection.receive(secs=HELLO_SECS), "welcome", "refused"
        )
    except BaseException:
        sock.close()
        raise


def _wait(error: OSError, place: tuple[str, int], deadline: float) -> None:
    """Waits a moment before the server is tried again, up to a time."""
    if time.monotonic() > deadline:
        raise RuntimeError(
            f"The server at {place[0]}:{place[1]} cannot be reached ({error}). Start it, or wait "
            "longer with patience_secs."
        ) from error
    time.sleep(_PAUSE_SECS)


def _answered(
    connection: Connection, site: Site
) -> tuple[messages.Message, BaseException | None]:
    """Answers the server until it tells the end, or the client fails; returns which."""
    while True:
        message = messages.unpack(connection.receive(), "ask", "end")
        if message.kind == "end":
            return message, None
        common, own = (message.arrays[key].tobytes() for key in ("common", "own"))
        try:
            answer = site.handle(common, own)
        except BaseException as error:
            # Not what it says, which might tell of the data.
            why = f"it has ended with a {type(error).__name__}"
            with contextlib.suppress(OSError):
                connection.send(messages.pack("left", {"why": why}), secs=HELLO_SECS)
            return message, error
        connection.send(answer)
