"""Is it said that TensorFlow's ports are open where they should not be?"""

from __future__ import annotations

import socket

import pytest

from tfdist.cluster import ports
from tfdist.cluster.ports import reserved_port

_LOCAL = ["127.0.0.1:1", "[::1]:2", "localhost:3"]


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        *((address, True) for address in _LOCAL),
        ("127.9.9.9:1", True),
        ("10.0.0.5:1", False),
        ("[2001:db8::5]:1", False),
        ("worker-0.example:1", False),
        ("0.0.0.0:1", False),
    ],
)
def test_loopback(address, expected):
    assert ports.is_loopback(address) == expected


@pytest.mark.parametrize(
    ("addresses", "outer", "lines"),
    [
        (_LOCAL, ["10.0.0.5"], 1),
        (_LOCAL, [], 0),
        (["10.0.0.5:1", "127.0.0.1:2"], ["10.0.0.5"], 0),
    ],
)
def test_warning(monkeypatch, caplog, addresses, outer, lines):
    monkeypatch.setattr(ports, "outer_addresses", lambda: outer)
    ports.warn_if_exposed(addresses)
    assert len(caplog.records) == lines
    assert all("all interfaces of this host (10.0.0.5)" in r.message for r in caplog.records)


def test_own_addresses_are_the_hosts():
    for address in ports.outer_addresses():
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as end:
            end.bind((address, 0))  # nobody can bind what is not its own


def test_reserved_port_is_nobody_elses():
    with reserved_port() as port:
        with pytest.raises(OSError, match="in use"):
            socket.create_server(("127.0.0.1", port)).close()
        assert 20000 <= port < 30000
    with socket.create_server(("127.0.0.1", port)):
        pass
