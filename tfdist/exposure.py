"""Can strangers reach the ports of this worker?  TensorFlow's are open on all interfaces.

Synopsis:

    >>> is_loopback("127.0.0.1:2222"), is_loopback("localhost:1"), is_loopback("10.0.0.5:2222")
    (True, True, False)
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from collections.abc import Sequence

_LOG = logging.getLogger("tfdist")
# Addresses that documents use and nobody has: a route to them is a route to the world.
_ELSEWHERE = ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1"))


def warn_if_exposed(addresses: Sequence[str]) -> None:
    """Warns where a cluster that looks local can be reached from outside.

    Args:
        addresses: "host:port" of each worker.
    """
    if not all(map(is_loopback, addresses)):
        return  # it means to be reached; the network's owner knows from where
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
            end.connect((elsewhere, 9))  # of a datagram socket: it only looks up the route
            found.append(end.getsockname()[0])
    return [address for address in found if not ipaddress.ip_address(address).is_loopback]
