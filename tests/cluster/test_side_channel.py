"""Do the workers, and nobody else, come to the chief?"""

from __future__ import annotations

import concurrent.futures
import socket
import time

import pytest

from tfdist.cluster import messages, side_channel

_SECRET = b"secret"


@pytest.fixture
def listener():
    with side_channel.open_listener("127.0.0.1") as opened:
        yield opened


def _call(listener, what=None):
    """Connects, and says something else than a worker would."""
    connection = socket.create_connection(listener.getsockname(), timeout=5)
    if what is not None:
        connection.sendall(what)
    return connection


def _signed(listener, rank, secret=_SECRET):
    connection = _call(listener)
    line = messages.receive(connection, deadline=time.monotonic() + 5)
    nonce = messages.decode(line)["nonce"]
    mac = messages.sign(secret, "heartbeat", nonce, rank)
    connection.sendall(messages.encode({"rank": rank, "mac": mac}))
    return connection


def _accept(listener, **kwargs):
    return side_channel.accept(listener, secret=_SECRET, **kwargs)


def test_workers_come_in_and_strangers_do_not(listener, monkeypatch):
    monkeypatch.setattr(side_channel, "_HANDSHAKE_SECS", 0.3)
    port = listener.getsockname()[1]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(_accept, listener, size=3)
        strangers = [
            _call(listener, b"GET / HTTP/1.1\r\n\r\n"),
            _call(listener, b"\xff" * 100),
            _call(listener),  # says nothing
            _call(listener, b"x" * 400_000),
            *(_signed(listener, rank) for rank in ("0", "3", "-1", "one")),
            _signed(listener, "1", secret=b"guess"),
        ]
        workers = {
            rank: side_channel.connect("127.0.0.1", port, rank=rank, secret=_SECRET)
            for rank in (2, 1)
        }
        found = chief.result(timeout=20)
    assert sorted(found) == [1, 2]
    for rank, connection in found.items():
        connection.sendall(b"%d" % rank)
        assert workers[rank].recv(1) == b"%d" % rank
    for connection in (*strangers, *workers.values(), *found.values()):
        connection.close()


def test_silent_strangers_keep_no_worker_waiting(listener):
    strangers = [_call(listener) for _ in range(10)]
    began = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(_accept, listener, size=2)
        port = listener.getsockname()[1]
        worker = side_channel.connect("127.0.0.1", port, rank=1, secret=_SECRET)
        found = chief.result(timeout=40)
    assert sorted(found) == [1]
    assert time.monotonic() - began < side_channel._HANDSHAKE_SECS
    for connection in (*strangers, worker, *found.values()):
        connection.close()


def test_flood_of_strangers_keeps_no_worker_waiting(listener, monkeypatch):
    monkeypatch.setattr(side_channel, "_MAX_STRANGERS", 4)
    strangers = [_call(listener) for _ in range(20)]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        chief = pool.submit(_accept, listener, size=2)
        worker = _signed(listener, "1")
        found = chief.result(timeout=2.5)
    assert sorted(found) == [1]
    for connection in (*strangers, worker, *found.values()):
        connection.close()


def test_wait_has_an_end(listener):
    began = time.monotonic()
    assert _accept(listener, size=2, timeout_secs=0.3) == {}
    assert 0.2 < time.monotonic() - began < 3


@pytest.mark.parametrize("greeting", [b"", b"junk\n", b'{"nonce": 1}\n', b"{}\n"])
def test_something_else_at_the_address_is_an_error(listener, greeting):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        def answer():
            connection, _ = listener.accept()
            with connection:
                connection.sendall(greeting)

        answered = pool.submit(answer)
        with pytest.raises(OSError, match="."):
            side_channel.connect("127.0.0.1", listener.getsockname()[1], rank=1, secret=_SECRET)
        answered.result()


def test_nobody_at_the_address_is_an_error(listener):
    port = listener.getsockname()[1]
    listener.close()
    with pytest.raises(OSError, match="refused"):
        side_channel.connect("127.0.0.1", port, rank=1, secret=_SECRET)


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.0.0.1", "127.0.0.1"), ("localhost", "127.0.0.1"), ("192.0.2.7", "0.0.0.0")],
)
def test_it_listens_at_its_own_address_where_that_is_one(host, expected):
    with side_channel.open_listener(host) as listener:
        found = listener.getsockname()[0]
        assert found in (expected, "::1" if host == "localhost" else expected)
