"""Which keys are there, and what is done with each?

Synopsis:

    >>> identity = Identity.generate()
    >>> signature = identity.sign(b"text")
    >>> is_signed(identity.public, signature, b"text"), is_signed(identity.public, signature, b"t")
    (True, False)
    >>> mine, yours = Exchange.generate(), Exchange.generate()
    >>> mine.agree(yours.public, b"what for") == yours.agree(mine.public, b"what for")
    True

An identity (Ed25519) lasts, and its public half is pinned by all others. Everything else lasts for
one round: two exchange keys (X25519), from which HKDF-SHA256 makes a key for each pair and purpose.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
from typing import Any

import numpy as np

_PIECE = 2**21  # numbers: 16 MiB of key stream at a time


def _library(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(f"cryptography.{name}")
    except ModuleNotFoundError as error:
        raise ImportError(
            "Secure sums need the package 'cryptography', which is not installed. Install it with "
            "pip install 'tfdist[federated]'.",
            name="cryptography",
        ) from error


class Identity:
    """Who a client is: a key with which it signs."""

    def __init__(self, private: bytes) -> None:
        home = _library("hazmat.primitives.asymmetric.ed25519")
        self._key = home.Ed25519PrivateKey.from_private_bytes(private)
        self._private = private

    @classmethod
    def generate(cls) -> Identity:
        """Makes a new one from the system's random source."""
        return cls(os.urandom(32))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Identity:
        """Reads one from a file that nobody else may read.

        Raises:
            ValueError: Others may read the file, or it holds something else.
        """
        file = pathlib.Path(path)
        if file.stat().st_mode & 0o077:
            raise ValueError(
                f"The identity {str(file)!r} can be read by others. Make it yours alone, with "
                "chmod 600."
            )
        content = file.read_bytes()
        if len(content) != 32:
            raise ValueError(
                f"{str(file)!r} holds {len(content)} bytes, and an identity has 32. Give the file "
                "that Identity.save has written."
            )
        return cls(content)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it to a new file that nobody else may read."""
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "wb") as file:
            file.write(self._private)

    @property
    def public(self) -> bytes:
        """The public half, 32 bytes, which the others pin."""
        return bytes(self._key.public_key().public_bytes_raw())

    def sign(self, text: bytes) -> bytes:
        """Returns a signature of 64 bytes."""
        return bytes(self._key.sign(text))


def is_signed(public: bytes, signature: bytes, text: bytes) -> bool:
    """Tells whether the owner of `public` has signed a text."""
    home = _library("hazmat.primitives.asymmetric.ed25519")
    exceptions = _library("exceptions")
    with contextlib.suppress(exceptions.InvalidSignature, ValueError):
        home.Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
        return True
    return False


class Exchange:
    """A pair of X25519, for one round.

    Args:
        private: 32 bytes.
    """

    def __init__(self, private: bytes) -> None:
        home = _library("hazmat.primitives.asymmetric.x25519")
        self.private = private
        self._key = home.X25519PrivateKey.from_private_bytes(private)
        self._read = home.X25519PublicKey.from_public_bytes

    @classmethod
    def generate(cls) -> Exchange:
        """Makes a new one from the system's random source."""
        return cls(os.urandom(32))

    @property
    def public(self) -> bytes:
        """The public half, 32 bytes."""
        return bytes(self._key.public_key().public_bytes_raw())

    def agree(self, public: bytes, purpose: bytes) -> bytes:
        """Returns the key of 32 bytes that both have for a purpose.

        Raises:
            ValueError: The other's half is no key, or one that gives everybody the same.
        """
        hashes = _library("hazmat.primitives.hashes")
        hkdf = _library("hazmat.primitives.kdf.hkdf")
        secret = self._key.exchange(self._read(public))
        derived = hkdf.HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=purpose)
        return bytes(derived.derive(secret))


def seal(key: bytes, text: bytes, label: bytes) -> bytes:
    """Encrypts a text with AES-GCM; `label` is not hidden, but cannot be changed."""
    nonce = os.urandom(12)
    return nonce + bytes(_aead(key).encrypt(nonce, text, label))


def unseal(key: bytes, box: bytes, label: bytes) -> bytes | None:
    """Returns what was encrypted, or None where it was changed or is for somebody else."""
    exceptions = _library("exceptions")
    try:
        return bytes(_aead(key).decrypt(box[:12], box[12:], label))
    except (exceptions.InvalidTag, ValueError):
        return None


def _aead(key: bytes) -> Any:
    return _library("hazmat.primitives.ciphers.aead").AESGCM(key)


def add_mask(vector: np.ndarray, key: bytes, *, sign: int) -> None:
    """Adds the mask of a key to numbers modulo 2^64, or takes it off, in place.

    The mask is the key stream of ChaCha20. A key must never mask two vectors.

    Args:
        vector: uint64 of shape `(n,)`.
        key: 32 bytes.
        sign: 1 or -1.
    """
    ciphers = _library("hazmat.primitives.ciphers")
    algorithms = _library("hazmat.primitives.ciphers.algorithms")
    stream = ciphers.Cipher(algorithms.ChaCha20(key, bytes(16)), mode=None).encryptor()
    zeros = bytes(8 * min(_PIECE, len(vector)))
    for start in range(0, len(vector), _PIECE):
        piece = vector[start : start + _PIECE]
        mask = np.frombuffer(stream.update(zeros[: 8 * len(piece)]), "<u8")
        np.add(piece, mask, out=piece) if sign > 0 else np.subtract(piece, mask, out=piece)
