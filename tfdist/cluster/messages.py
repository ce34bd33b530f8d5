"""How do two processes of tfdist talk?  Short lines of JSON over TCP, signed with a secret.

Synopsis:

    >>> decode(encode({"rank": 1}))
    {'rank': 1}
    >>> mac = sign(b"secret", "worker", "nonce", "text")
    >>> is_signed(b"secret", mac, "worker", "nonce", "text")
    True
    >>> is_signed(b"guess", mac, "worker", "nonce", "text")
    False
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import socket
import time
from collections.abc import Mapping
from typing import Any

from tfdist.cluster.wording import shorten

# Enough for the addresses of thousands of workers; a stranger cannot fill the memory.
MAX_BYTES = 256 * 1024


def encode(message: Mapping[str, Any]) -> bytes:
    """Writes a message as one line.

    Raises:
        ValueError: The line would be longer than MAX_BYTES.
    """
    line = json.dumps(message, separators=(",", ":"), sort_keys=True).encode("ascii") + b"\n"
    if len(line) > MAX_BYTES:
        raise ValueError(f"A message has {len(line)} bytes, but MAX_BYTES={MAX_BYTES}; send less.")
    return line


def decode(line: bytes | str) -> dict[str, Any]:
    """Reads a message from one line.

    Raises:
        ValueError: The line is too long, no JSON, or no object.
    """
    if len(line) > MAX_BYTES:
        raise ValueError(f"A message has {len(line)} bytes, but MAX_BYTES={MAX_BYTES}.")
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:  # bytes that are no UTF-8 are ValueErrors too
        raise ValueError(f"A message is no valid JSON: {error}. {_received(line)}") from None
    if not isinstance(message, dict):
        raise ValueError(
            f"A message must be a JSON object, not {type(message).__name__}. {_received(line)}"
        )
    return message


def _received(line: bytes | str) -> str:
    return f"Received: {shorten(line)}"


def text_of(message: Mapping[str, Any], key: str) -> str:
    """Reads a text from a message.

    Raises:
        ValueError: There is no text under this key.
    """
    value = message.get(key)
    if not isinstance(value, str):
        raise ValueError(f"A message needs a text under {key!r}, not {type(value).__name__}.")
    return value


def make_nonce() -> str:
    """Makes a text that is used only once, so that an old message cannot be replayed."""
    return os.urandom(16).hex()


def sign(secret: bytes, *parts: str) -> str:
    """Signs texts with HMAC-SHA256; without the secret nobody can make or change them."""
    mac = hmac.new(secret, digestmod=hashlib.sha256)
    for part in parts:
        data = part.encode("utf-8", errors="surrogatepass")
        # The length keeps ("ab", "c") and ("a", "bc") apart.
        mac.update(len(data).to_bytes(8, "big") + data)
    return mac.hexdigest()


def is_signed(secret: bytes, mac: str, *parts: str) -> bool:
    """Tells in constant time whether `mac` is the signature of these texts."""
    return hmac.compare_digest(sign(secret, *parts).encode(), mac.encode("utf-8", "replace"))


def receive(connection: socket.socket, *, deadline: float) -> bytes:
    """Reads one line, whatever pieces it comes in.

    Args:
        connection: Connected, blocking.
        deadline: On the clock of time.monotonic, in seconds; for the whole line, so that a peer
            that sends a byte now and then cannot stretch it.

    Returns:
        The line without its end; b"" where the peer closed the connection before the end of it.

    Raises:
        TimeoutError: The deadline came first.
        ValueError: The line is longer than MAX_BYTES.
    """
    data = b""
    while not data.endswith(b"\n"):
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("No whole line came before the deadline.")
        connection.settimeout(left)
        piece = connection.recv(65536)
        if not piece:
            return b""
        data += piece
        if len(data) > MAX_BYTES:
            raise ValueError(f"A line has more than MAX_BYTES={MAX_BYTES}.")
    return data[:-1]
