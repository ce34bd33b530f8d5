"""Are messages of limited size, signed, and read without trust?"""

from __future__ import annotations

import json
import socket
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdist.cluster import messages
from tfdist.cluster.messages import MAX_BYTES, decode, encode, is_signed, make_nonce, receive, sign
from tfdist.cluster.wording import shorten

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), _JSON, max_size=4))
def test_round_trip_in_one_line(message):
    line = encode(message)
    assert line.endswith(b"\n")
    assert b"\n" not in line[:-1]
    assert decode(line) == message
    assert decode(line.decode()) == message


@given(st.binary() | st.text() | _JSON.map(json.dumps))
def test_any_line_is_read_or_refused(line):
    try:
        message = decode(line)
    except ValueError as error:  # any other error is a failure
        assert shorten(line) in str(error)
    else:
        assert isinstance(message, dict)


@given(st.dictionaries(st.text(), _JSON, max_size=3), st.text())
def test_any_value_under_a_key_is_a_text_or_refused(message, key):
    try:
        assert messages.text_of(message, key) == message[key]
    except ValueError as error:
        assert repr(key) in str(error)


@pytest.mark.parametrize(
    ("line", "cause"),
    [
        (b"x", "no valid JSON"),
        (b"\xff{}", "no valid JSON"),
        (b"[" * 100_000, "no valid JSON"),
        (b"[1]", "must be a JSON object, not list"),
        (b" " * (MAX_BYTES + 1), f"MAX_BYTES={MAX_BYTES}"),
    ],
)
def test_broken_lines(line, cause):
    with pytest.raises(ValueError, match=cause):
        decode(line)


def test_too_long_to_send():
    with pytest.raises(ValueError, match=f"MAX_BYTES={MAX_BYTES}; send less"):
        encode({"text": "x" * MAX_BYTES})


@pytest.mark.parametrize("value", [None, 1, ["x"], {}])
def test_text_of_refuses_other_types(value):
    with pytest.raises(ValueError, match="needs a text under 'key'"):
        messages.text_of({"key": value}, "key")


_PARTS = st.lists(st.text(), min_size=1, max_size=3)


@given(st.binary(), _PARTS, st.binary(), _PARTS)
def test_signature_belongs_to_one_secret_and_one_list_of_texts(secret, parts, other, others):
    mac = sign(secret, *parts)
    assert is_signed(secret, mac, *parts)
    assert is_signed(secret, mac, *others) == (parts == others)
    # HMAC pads a short key with zero bytes: only those keys are the same.
    assert is_signed(other, mac, *parts) == (other.rstrip(b"\0") == secret.rstrip(b"\0"))


def test_signature_keeps_texts_apart():
    assert not is_signed(b"secret", sign(b"secret", "ab", "c"), "a", "bc")


@pytest.mark.parametrize("mac", ["", "x", "ü\ud800", "0" * 64])
def test_any_text_may_claim_to_be_a_signature(mac):
    assert not is_signed(b"secret", mac, "text")


def test_nonces_differ():
    assert len({make_nonce() for _ in range(100)}) == 100


@pytest.fixture
def connection():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_receive_joins_pieces(connection):
    ours, theirs = connection
    theirs.sendall(b'{"a"')
    later = threading.Timer(0.1, theirs.sendall, [b":1}\n"])
    later.start()
    assert receive(ours, deadline=time.monotonic() + 5) == b'{"a":1}'
    later.join()


def test_receive_sees_the_end(connection):
    ours, theirs = connection
    theirs.sendall(b"half")
    theirs.close()
    assert receive(ours, deadline=time.monotonic() + 5) == b""


def test_receive_does_not_wait_for_a_slow_peer(connection):
    ours, theirs = connection
    stop = threading.Event()

    def drip():
        while not stop.wait(0.001):
            theirs.sendall(b"x")

    slow = threading.Thread(target=drip)
    slow.start()
    began = time.monotonic()
    try:
        with pytest.raises(TimeoutError):
            receive(ours, deadline=began + 0.3)
    finally:
        stop.set()
        slow.join()
    assert time.monotonic() - began < 2


def test_receive_has_a_limit(connection):
    ours, theirs = connection
    flood = threading.Thread(target=theirs.sendall, args=[b"x" * (MAX_BYTES + 1)])
    flood.start()
    with pytest.raises(ValueError, match="MAX_BYTES"):
        receive(ours, deadline=time.monotonic() + 5)
    flood.join()
