"""Does a peer that lies about lengths, or stops, cost neither memory nor time?"""

from __future__ import annotations

import socket
import threading
import time

import pytest

from tfdist.federated.sites.connections import Connection, hello, name_in, parsed


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield Connection(ours, most_bytes=3 * 2**20), theirs
    ours.close()
    theirs.close()


def test_messages_come_one_by_one(pair):
    own, raw = pair
    other = Connection(raw, most_bytes=10)
    sent = [b"", b"a", bytes(3 * 2**20)]
    thread = threading.Thread(target=lambda: [other.send(one) for one in sent])
    thread.start()
    assert [own.receive(secs=20) for _ in sent] == sent
    thread.join()


def test_a_message_that_is_announced_too_long_is_not_read(pair):
    own, raw = pair
    raw.sendall((3 * 2**20 + 1).to_bytes(8, "little"))
    with pytest.raises(OSError, match="3145729 bytes came, where 3145728 are the most"):
        own.receive(secs=20)


def test_a_peer_that_stops_is_left_in_time(pair):
    own, raw = pair
    raw.sendall((100).to_bytes(8, "little") + b"only this")
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        own.receive(secs=0.2)
    assert time.monotonic() - begun < 10
    raw.close()
    with pytest.raises(OSError, match="The connection has ended$"):
        own.receive(secs=20)


def test_a_peer_that_sends_drop_by_drop_is_left_in_time(pair):
    own, raw = pair

    def drip() -> None:
        try:
            raw.sendall((1000).to_bytes(8, "little"))
            for _ in range(200):
                raw.sendall(b".")
                time.sleep(0.02)
        except OSError:
            pass  # it was closed

    thread = threading.Thread(target=drip)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        own.receive(secs=0.3)
    assert time.monotonic() - begun < 3
    own.close()
    thread.join()


def test_names_of_others_are_none():
    assert name_in(hello("site a")) == "site a"
    for other in (b"", b"GET / HTTP/1.1\r\n", b"tfdist federated 2\nsite a", b"\xff\n"):
        assert name_in(other) == ""


@pytest.mark.parametrize("address", ["8040", "host:", "host:port", ":1", "a:70000"])
def test_what_is_no_address_is_refused(address):
    with pytest.raises(ValueError, match="is no host and port"):
        parsed(address)
