"""Does a server reach who is connected, and nobody who only says so?

The clients are threads that answer with what they were asked; who trains is in test_serving.py.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import Any

import pytest
from certificates import made

from tfdist.federated import messages
from tfdist.federated.channel import Request
from tfdist.federated.sites import joining
from tfdist.federated.sites.connections import Connection, parsed
from tfdist.federated.sites.over_sites import OverSites


@contextlib.contextmanager
def _server(**kwargs: Any):
    kwargs = {"tls": None, "most_bytes": 1000, "answer_secs": 5.0, **kwargs}
    server = OverSites(["a", "b", "c"], "127.0.0.1:0", **kwargs)
    server.held = []
    try:
        yield server
    finally:
        server.close()
        for connection in server.held:
            connection.close()


def _joined(server: Any, name: str, context: Any = None) -> Connection:
    connection = joining._connected(name, parsed(server.address), context, 10.0)
    server.held.append(connection)
    return connection


def _answering(connection: Connection, answers: list[bytes | None]) -> threading.Thread:
    """Answers each question with the next of these, or ends the connection where it is None."""

    def work() -> None:
        for answer in answers:
            connection.receive(secs=20)
            if answer is None:
                connection.close()
                return
            connection.send(answer)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def _ask(server: OverSites, *names: str) -> dict[str, bytes]:
    return dict(server.ask(Request("train", 0, b"common", dict.fromkeys(names, b"own"))))


def _why(answer: bytes) -> str:
    return messages.unpack(answer, "left").header["why"]


def test_who_is_connected_answers_and_others_have_left():
    with _server() as server:
        assert server.names() == []
        _answering(_joined(server, "b"), [b"of b", b"again"])
        _answering(_joined(server, "a"), [b"of a", None])
        assert server.wait_for(2, secs=20) == ["a", "b"]
        found = _ask(server, "a", "b", "c")
        assert list(found) == ["a", "b", "c"]
        assert (found["a"], found["b"]) == (b"of a", b"of b")
        assert _why(found["c"]) == "it is not connected"
        found = _ask(server, "a", "b")
        assert "The connection has ended" in _why(found["a"])
        assert found["b"] == b"again"
        assert server.names() == ["b"]
        _answering(_joined(server, "a"), [b"is back"])
        server.wait_for(2, secs=20)
        assert _ask(server, "a") == {"a": b"is back"}


def test_a_client_that_comes_twice_is_the_latest():
    with _server() as server:
        _joined(server, "a")
        server.wait_for(1, secs=20)
        _answering(_joined(server, "a"), [b"the second"])
        deadline = time.monotonic() + 20
        while (found := _ask(server, "a")["a"]) != b"the second":  # until it was let in
            assert time.monotonic() < deadline
            assert "lost" in _why(found) or "not connected" in _why(found)


def test_who_takes_too_long_or_sends_too_much_has_left():
    with _server(answer_secs=0.3) as server:
        _joined(server, "a")
        _answering(_joined(server, "b"), [bytes(1001)])
        server.wait_for(2, secs=20)
        found = _ask(server, "a", "b")
        assert _why(found["a"]) == "it has not answered within 0.3 seconds"
        assert "1001 bytes came, where 1000 are the most" in _why(found["b"])
        assert server.names() == []


def test_strangers_are_refused_by_name(caplog):
    with _server() as server:
        with pytest.raises(ValueError, match="does not let 'stranger' in: .*none of the clients"):
            _joined(server, "stranger")
        with socket.create_connection(parsed(server.address)) as sock:
            sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
            sock.settimeout(20)
            with contextlib.suppress(ConnectionError):
                assert sock.recv(100) == b""
        assert server.names() == []
    assert "has ended before it said a name" in caplog.text


def test_over_tls_a_certificate_has_to_be_of_the_authority_and_the_name(tmp_path):
    pytest.importorskip("cryptography", reason="pip install 'tfdist[federated]'")
    good = made(tmp_path / "good", "server", "a", "b")
    foreign = made(tmp_path / "foreign", "server", "a")
    with _server(tls=good["server"]) as server:
        _answering(_joined(server, "a", good["a"].context("client")), [b"of a"])
        server.wait_for(1, secs=20)
        assert _ask(server, "a") == {"a": b"of a"}
        with pytest.raises(ValueError, match="the certificate of 'b' has another name"):
            _joined(server, "b", good["a"].context("client"))
        mixed = foreign["a"].context("client")
        mixed.load_verify_locations(str(good["a"].authority))  # trusts the server, is not trusted
        with pytest.raises((ValueError, RuntimeError), match=r"do not trust|cannot be reached"):
            joining._connected("a", parsed(server.address), mixed, 0.0)
        with pytest.raises(ValueError, match="do not trust each other.*certificate verify failed"):
            _joined(server, "a", foreign["a"].context("client"))
        with pytest.raises((ValueError, RuntimeError)):  # no TLS at all
            joining._connected("a", parsed(server.address), None, 0.0)
        assert server.names() == ["a"]


def test_a_server_that_is_not_there_is_told():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RuntimeError, match=f"127.0.0.1:{port} cannot be reached"):
        joining._connected("a", ("127.0.0.1", port), None, 0.0)
