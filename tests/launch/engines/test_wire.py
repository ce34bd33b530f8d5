"""Do launcher and agents understand each other, and nobody else?"""

from __future__ import annotations

import concurrent.futures
import contextlib
import hashlib
import io
import json
import socket

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist.cluster import messages
from tfdist.launch.engines import wire


@contextlib.contextmanager
def _ends():
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(end) for end in socket.socketpair()]


@contextlib.contextmanager
def _wires(secret=b"secret", other=b"secret"):
    """A launcher's wire and an agent's."""
    with _ends() as (ours, theirs), concurrent.futures.ThreadPoolExecutor(1) as pool:
        answered = pool.submit(wire.answer, theirs, secret=other, who={"rank": 3})
        try:
            line, who = wire.greet(ours, secret=secret)
        except Exception:
            ours.close()
            answered.exception(timeout=10)
            raise
        assert who == {"rank": 3}
        yield line, answered.result(timeout=10), ours, theirs


def test_messages_go_both_ways_in_order():
    with _wires() as (launcher, agent, *_):
        for number in range(3):
            launcher.send("start", number=number)
            agent.send("stdout", data=b"x" * number)
        for number in range(3):
            assert agent.receive() == ({"kind": "start", "size": 0, "number": number}, b"")
            assert launcher.receive() == ({"kind": "stdout", "size": number}, b"x" * number)


def test_largest_data():
    data = bytes(range(256)) * (wire.MAX_DATA // 256)
    with _wires() as (launcher, agent, *_), concurrent.futures.ThreadPoolExecutor(1) as pool:
        sent = pool.submit(agent.send, "file", data=data)
        assert launcher.receive()[1] == data
        sent.result(timeout=10)


def test_agent_with_another_secret_is_not_let_in():
    with pytest.raises(ValueError, match="does not know the secret"), _wires(other=b"guess"):
        pass


def test_launcher_with_another_secret_is_not_obeyed():
    """Somebody who listens at the launcher's port, and lets everybody in."""
    with _ends() as (ours, theirs), concurrent.futures.ThreadPoolExecutor(1) as pool:
        answered = pool.submit(wire.answer, theirs, secret=b"secret", who={})
        ours.sendall(messages.encode({"tfdist-agent": 1, "nonce": "n"}))
        ours.recv(65536)
        ours.sendall(messages.encode({"mac": "0" * 64}))
        with pytest.raises(ValueError, match="does not know the secret"):
            answered.result(timeout=10)


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda data: data.replace(b"worker", b"WORKER"), id="data"),
        pytest.param(lambda data: data.replace(b"start", b"stort"), id="fields"),
        pytest.param(lambda data: data + data, id="sent again"),
    ],
)
def test_what_somebody_else_has_changed_is_not_taken(change):
    with _wires() as (launcher, agent, ours, theirs):
        launcher.send("start", data=b"worker")
        sent = theirs.recv(65536)
        with _ends() as (forger, reader):
            agent._reader = reader.makefile("rb")
            forger.sendall(change(sent))
            if change(sent).startswith(sent):
                agent.receive()
            with pytest.raises(ValueError, match="not signed with the secret"):
                agent.receive()


@pytest.mark.parametrize("mac", ["é" * 64, "\ud83d", ""])
def test_any_text_as_a_signature_is_refused(mac):
    with _wires() as (launcher, agent, ours, theirs):
        body = messages.encode({"kind": "start", "size": 0}).decode("ascii")
        ours.sendall(messages.encode({"body": body, "mac": mac}))
        with pytest.raises(ValueError, match="not signed with the secret"):
            agent.receive()


_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=8) | st.floats() | st.booleans(),
    lambda inner: st.lists(inner, max_size=2)
    | st.dictionaries(st.sampled_from(["body", "mac", "kind", "size", "nonce"]), inner, max_size=4),
    max_leaves=8,
)
_LINES = st.binary(max_size=200) | _JSON.map(lambda value: json.dumps(value).encode())


class _NoSocket:
    """Has read what a stranger has sent."""

    def __init__(self, content):
        self._content = io.BytesIO(content)

    def makefile(self, mode):
        return self._content

    def recv(self, size):
        return self._content.read(size)

    def sendall(self, *_):
        """Nobody reads it."""

    settimeout = setsockopt = sendall


@given(_LINES)
@settings(max_examples=60)
def test_whatever_a_stranger_sends_is_refused(line):
    content = line + b"\n" + line
    with pytest.raises((ValueError, OSError)):
        wire.greet(_NoSocket(content), secret=b"secret")
    with pytest.raises((ValueError, OSError)):
        wire.answer(_NoSocket(content), secret=b"secret", who={})
    own = wire.Wire(_NoSocket(content), secret=b"secret", session="", is_launcher=True)
    with pytest.raises((ValueError, EOFError)):
        own.receive()


@given(_JSON)
@settings(max_examples=60)
def test_whatever_is_signed_is_a_message_or_refused(fields):
    """A launcher or an agent of another release knows the secret."""
    body = json.dumps(fields)
    parts = ("agent", "", "0", body, hashlib.sha256(b"").hexdigest())
    line = messages.encode({"body": body, "mac": messages.sign(b"secret", *parts)})
    own = wire.Wire(_NoSocket(line), secret=b"secret", session="", is_launcher=True)
    try:
        found, _ = own.receive()
    except (ValueError, EOFError):
        return
    assert isinstance(found["kind"], str)


def test_own_message_sent_back_is_not_taken():
    with _wires() as (launcher, agent, ours, theirs):
        launcher.send("signal", number=15)
        agent.receive()
        launcher.send("end", grace_secs=0)  # with the number that the agent's next one would have
        theirs.sendall(theirs.recv(65536))
        with pytest.raises(ValueError, match="not signed"):
            launcher.receive()


@pytest.mark.parametrize("junk", [b"", b"GET / HTTP/1.1\r\n\r\n", b"[1]\n", b"x" * 300_000 + b"\n"])
def test_junk_is_no_message(junk):
    with _wires() as (launcher, agent, ours, theirs), concurrent.futures.ThreadPoolExecutor(1) as p:

        def write():
            with contextlib.suppress(OSError):
                ours.sendall(junk)
                ours.shutdown(socket.SHUT_RDWR)

        written = p.submit(write)
        with pytest.raises((EOFError, ValueError)):
            agent.receive()
        theirs.close()
        written.result(timeout=10)


def test_end_is_an_eof():
    with _wires() as (launcher, agent, *_):
        agent.close()
        with pytest.raises(EOFError):
            launcher.receive()
