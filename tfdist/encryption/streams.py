"""How do bytes become an encrypted file, and come back whole or not at all?

The format and all of its cryptography are age's (X25519, HKDF, ChaCha20-Poly1305 in chunks of 64
KiB, each with a tag, the last one marked). A chunk comes out before the tags of later ones were
seen: so whoever reads has to wait for the end before anything is used.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterable
from typing import Any

from tfdist.encryption import keys
from tfdist.encryption.keys import IdentityError

_HEADS = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE-----")
_CHUNK_BYTES = 2**20


def encrypt(chunks: Iterable[bytes], path: pathlib.Path, recipients: list[Any]) -> None:
    """Writes an encrypted file durably, and takes it away where that fails.

    Args:
        chunks: The content, made while it is written, so that it need not fit into memory.
        path: A new file.
        recipients: As `keys.recipients` returns.

    Raises:
        OSError: It could not be written.
    """
    with open(path, "xb") as file:
        reader, writer = _Reader(chunks), _Writer(file)
        try:
            keys.age().encrypt_io(reader, writer, recipients)
            file.flush()
            os.fsync(file.fileno())
        except BaseException as error:
            path.unlink(missing_ok=True)
            raise reader.error or writer.error or error from None  # their own, not as a text


def is_encrypted(path: pathlib.Path) -> bool:
    """Tells whether a file begins as one of age."""
    with open(path, "rb") as file:
        return file.read(64).startswith(_HEADS)


def decrypt(path: pathlib.Path, sink: Any, identities: list[Any]) -> None:
    """Decrypts a file; what `sink` got counts only when this returns.

    Args:
        path: The encrypted file.
        sink: Has `write` and `flush`.
        identities: As `keys.identities` returns.

    Raises:
        IdentityError: It was encrypted to others.
        ValueError: It is no file of age, or not as it was written.
        OSError: It cannot be read, or `sink` cannot be written to.
    """
    if not is_encrypted(path):
        raise ValueError(f"{path} is no file of age. Give one that tfdist or age has encrypted.")
    with open(path, "rb") as file:
        reader, writer = _Reader(iter(lambda: file.read(_CHUNK_BYTES), b"")), _Writer(sink)
        try:
            keys.age().decrypt_io(reader, writer, identities)
        except (keys.age().DecryptError, OSError) as error:
            if own := reader.error or writer.error:
                raise own from None
            if "No matching keys" in str(error):
                raise IdentityError(
                    f"{path} is encrypted to other keys than those whose identities are here. Name "
                    f"the file that holds the right one, by {keys.IDENTITY_FILE}."
                ) from error
            raise ValueError(
                f"{path} was changed or cut short after it was encrypted, and nothing of it was "
                "used. Restore it from a copy."
            ) from error


class _Reader:
    """Reads from chunks, and keeps the error that a library would turn into text."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks, self._rest = iter(chunks), memoryview(b"")
        self.error: Exception | None = None

    def read(self, size: int) -> bytes:
        try:
            while not self._rest:
                self._rest = memoryview(next(self._chunks))
        except StopIteration:
            return b""
        except Exception as error:
            self.error = error
            raise
        piece, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return piece


class _Writer:
    """Writes to a file, and keeps the error that a library would turn into text."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.error: Exception | None = None

    def write(self, piece: bytes) -> int:
        try:
            self._file.write(piece)
        except Exception as error:
            self.error = error
            raise
        return len(piece)

    def flush(self) -> None:
        """Leaves it to whoever opened the file."""
