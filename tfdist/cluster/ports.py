"""Which address and port does a worker use, and who can reach it?

TensorFlow's ports are open on all interfaces, so without a firewall strangers can reach them.

Synopsis:

    >>> is_loopback("127.0.0.1:2222"), is_loopback("localhost:1"), is_loopback("10.0.0.5:2222")
    (True, True, False)
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
from collections.abc import Iterator, Sequence

from tfdist.cluster.contract import HOST

_LOG = logging.getLogger("tfdist")
# Addresses reserved for documentation: the route to them is the route to the outside.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))

# Below the range from which systems take the ports of outgoing connections, so that none of those
# can take a worker's port between the roll call and TensorFlow's own bind.
_FIRST_PORT, _NUM_PORTS = 20000, 10000

_TRY_SECS = 2.0  # for one connection


def warn_if_exposed(addresses: Sequence[str]) -> None:
    """Warns where a cluster that looks local can be reached from outside.

    Args:
        addresses: "host:port" of each worker.
    """
    if not all(map(is_loopback, addresses)):
        return  # it is meant to be reached over the network
    if outer := outer_addresses():
        _LOG.warning(
            "TensorFlow's servers listen on all interfaces of this host (%s), not on loopback "
            "alone, and let everybody in who reaches their ports. SECURITY.md says how to close "
            "them.", ", ".join(outer),
        )


def is_loopback(address: str) -> bool:
    """Tells whether "host:port" can be reached from its own host only."""
    host = address.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name
        return False


def outer_addresses() -> list[str]:
    """Returns the addresses of this host from which it would reach others; sends nothing."""
    found = []
    for family, elsewhere in _ELSEWHERE:
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as end:
            end.connect((elsewhere, 9))  # on a datagram socket this only looks up the route
            found.append(end.getsockname()[0])
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]


def own_address(other: str) -> str:
    """Returns the address of this host from which it would reach another one; sends nothing.

    If TFDIST_HOST is set, that is returned.

    >>> own_address("127.0.0.1")
    '127.0.0.1'
    """
    if named := os.environ.get(HOST):
        return named
    with contextlib.suppress(OSError):
        family, _, _, _, address = socket.getaddrinfo(other, 9, type=socket.SOCK_DGRAM)[0]
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            end.connect(address)  # on a datagram socket this only looks up the route
            return str(end.getsockname()[0])
    return "127.0.0.1"


@contextlib.contextmanager
def reserved_port() -> Iterator[int]:
    """Yields a port that is free on all interfaces, and reserves it within the block."""
    for _ in range(1000):
        number = _FIRST_PORT + int.from_bytes(os.urandom(4), "big") % _NUM_PORTS
        with contextlib.closing(_open_on_all_interfaces()) as holder:
            try:
                holder.bind(("", number))
            except OSError:
                continue
            yield holder.getsockname()[1]
            return
    # No port beyond them: firewalls are told of these.
    last = _FIRST_PORT + _NUM_PORTS - 1
    raise RuntimeError(
        f"No free TCP port was found on this host from {_FIRST_PORT} to {last}; end what holds so "
        "many of them."
    )


def _open_on_all_interfaces() -> socket.socket:
    if socket.has_dualstack_ipv6():  # TensorFlow's server listens on [::], which includes IPv4
        holder = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        holder.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        return holder
    return socket.socket(socket.AF_INET, socket.SOCK_STREAM)


def is_reachable(address: str, *, timeout_secs: float = _TRY_SECS) -> bool:
    """Tells whether something listens at "host:port"."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host.strip("[]"), int(port)), timeout=timeout_secs):
            return True
    except OSError:  # refused, too slow, or a name that is not known yet
        return False
