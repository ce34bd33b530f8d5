"""Who may connect, and to whom?  Certificates of both sides, or nobody beyond this host.

Synopsis:

    >>> wrapped("server", None, host="127.0.0.1")  # nothing to wrap: the connection stays here
    >>> wrapped("client", None, host="192.0.2.7")
    Traceback (most recent call last):
    ValueError: The address 192.0.2.7 is not of this host alone, and no certificates were given...

A certificate has to be signed by the authority that is given, and no other; those of the system do
not count. The server has to have the name by which it is called, and a client that of the client.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import socket
import ssl
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class TLS:
    """The certificate of one side.

    Attributes:
        certificate: File of it, in PEM.
        key: File of its private key, which nobody else may read.
        authority: File of the certificate of who has signed those of all sides.
    """

    certificate: str | os.PathLike[str]
    key: str | os.PathLike[str]
    authority: str | os.PathLike[str]

    def context(self, side: str) -> ssl.SSLContext:
        """Returns how a side of connections behaves.

        Args:
            side: "server" or "client".

        Raises:
            ValueError: A file cannot be used.
        """
        if os.stat(self.key).st_mode & 0o077:
            raise ValueError(
                f"The private key {os.fspath(self.key)!r} can be read by others. Make it yours "
                "alone, with chmod 600."
            )
        protocol = ssl.PROTOCOL_TLS_SERVER if side == "server" else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(protocol)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_cert_chain(os.fspath(self.certificate), os.fspath(self.key))
            context.load_verify_locations(os.fspath(self.authority))
        except (ssl.SSLError, OSError) as error:
            raise ValueError(
                f"The certificates {self!r} cannot be used: {error}. Give files in PEM: a "
                "certificate, its key, and the certificate of the authority."
            ) from error
        return context


def wrapped(side: str, tls: TLS | None, *, host: str) -> ssl.SSLContext | None:
    """Returns the context for an address, None for one that needs none.

    Args:
        side: "server" or "client".
        tls: The certificate of this side, or None.
        host: Where the server listens.

    Raises:
        ValueError: Without certificates, others than this host could connect.
    """
    if tls is not None:
        return tls.context(side)
    if not is_loopback(host):
        raise ValueError(
            f"The address {host} is not of this host alone, and no certificates were given. Give "
            "tls=TLS(certificate=..., key=..., authority=...) on both sides, or use 127.0.0.1."
        )
    return None


def is_loopback(host: str) -> bool:
    """Tells whether an address leads to this host alone."""
    try:
        found = {info[4][0] for info in socket.getaddrinfo(host, None)}
    except OSError:
        return False
    return bool(found) and all(ipaddress.ip_address(one).is_loopback for one in found)


def names_of(certificate: Any) -> set[str]:
    """Returns the names that a peer's certificate is for.

    >>> names = names_of({"subject": ((("commonName", "a"),),), "subjectAltName": (("DNS", "b"),)})
    >>> sorted(names)
    ['a', 'b']
    """
    subject = [pair for part in certificate.get("subject", ()) for pair in part]
    own = {value for name, value in subject if name == "commonName"}
    others = certificate.get("subjectAltName", ())
    return own | {value for kind, value in others if kind in ("DNS", "URI")}
