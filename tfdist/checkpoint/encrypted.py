"""How is a checkpoint written so that only who holds a key can read it, and read again?

Its files are made in the memory of this process, packed into a tar, and encrypted while they are
written: no disk, and no other process, sees them as they are. Decrypted and unpacked, the tar is an
ordinary checkpoint. What stays readable beside it is its manifest: step, score and checksum.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import pathlib
import secrets
import tarfile
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow as tf

from tfdist.checkpoint import manifest
from tfdist.checkpoint.contents import Saved, read_files, write_files
from tfdist.encryption import keys, streams

_FILE = "checkpoint.age"
_CHUNK_BYTES = 2**20


def write(
    folder: pathlib.Path,
    tensors: Mapping[str, Any],
    plain: str,
    *,
    step: int,
    facts: Mapping[str, Any],
    recipients: list[Any],
) -> None:
    """Writes a checkpoint's one file.

    Args:
        folder: The folder to write into.
        tensors: As in `write_files`.
        plain: As there.
        step: Updates that the run has made.
        facts: Of the manifest.
        recipients: As `keys.recipients` returns.

    Raises:
        OSError: It could not be written.
    """
    with _folder_in_memory() as inside:
        write_files(inside, tensors, plain)
        streams.encrypt(_packed(inside, step, facts), folder / _FILE, recipients)


def read(folder: pathlib.Path, outer: Mapping[str, Any], identities: list[Any]) -> Saved:
    """Reads what `write` wrote; nothing of it is used unless it is whole.

    Args:
        folder: The checkpoint.
        outer: Its manifest.
        identities: As `keys.identities` returns.

    Raises:
        IdentityError: It was encrypted to others.
        ValueError: It is not what was written; the message begins with a lower-case letter.
    """
    content = io.BytesIO()
    try:
        streams.decrypt(folder / _FILE, content, identities)
    except keys.IdentityError:
        raise
    except (ValueError, OSError) as error:
        raise ValueError(f"{_FILE} was changed or cut short, or is no file of age") from error
    with _folder_in_memory() as inside:
        content.seek(0)
        try:
            seals, told = _unpacked(content, inside)
        except (tarfile.TarError, UnicodeError) as error:
            raise ValueError(f"{_FILE} holds no checkpoint") from error
        content.close()  # as large as the model
        body = manifest.parse(told)
        if body["files"] != seals or body.get("step") != outer.get("step"):
            raise ValueError(f"{_FILE} holds another checkpoint than {folder.name}")
        return dataclasses.replace(read_files(inside, body), folder=str(folder))


def is_encrypted(folder: pathlib.Path) -> bool:
    """Tells whether a checkpoint is encrypted."""
    return (folder / _FILE).exists()


@contextlib.contextmanager
def _folder_in_memory() -> Iterator[str]:
    """Makes a folder in the memory of this process, which is gone with the `with` block."""
    folder = f"ram://tfdist-{secrets.token_hex(8)}"
    tf.io.gfile.makedirs(folder)
    try:
        yield folder
    finally:
        tf.io.gfile.rmtree(folder)


def _packed(folder: str, step: int, facts: Mapping[str, Any]) -> Iterator[bytes]:
    """Yields the tar of a checkpoint's files, with a manifest of them at its end."""
    seals: dict[str, Any] = {}
    for name in sorted(tf.io.gfile.listdir(folder)):
        path = f"{folder}/{name}"
        size, digest = tf.io.gfile.stat(path).length, hashlib.sha256()
        yield _head(name, size)
        with tf.io.gfile.GFile(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
        yield _filling(size)
        seals[name] = {"bytes": size, "sha256": digest.hexdigest()}
    told = manifest.text_of(step, facts, seals).encode()
    yield _head(manifest.MANIFEST, len(told)) + told + _filling(len(told))
    yield bytes(2 * tarfile.BLOCKSIZE)


def _head(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode = size, 0o600
    return info.tobuf(tarfile.PAX_FORMAT)  # sizes above 8 GB


def _filling(size: int) -> bytes:
    return bytes(-size % tarfile.BLOCKSIZE)


def _unpacked(content: io.BytesIO, folder: str) -> tuple[dict[str, Any], bytes]:
    """Writes the files of a tar into a folder; returns what they are, and the manifest."""
    seals: dict[str, Any] = {}
    told = b""
    with tarfile.open(fileobj=content, mode="r:") as packed:
        for member in packed:
            file = packed.extractfile(member)
            if file is None or not manifest.is_plain(member.name):
                raise ValueError(f"{_FILE} holds {member.name!r}, which is no file of a checkpoint")
            if member.name == manifest.MANIFEST:
                told = file.read()
                continue
            digest = hashlib.sha256()
            with tf.io.gfile.GFile(f"{folder}/{member.name}", "wb") as target:
                while chunk := file.read(_CHUNK_BYTES):
                    digest.update(chunk)
                    target.write(chunk)
            seals[member.name] = {"bytes": member.size, "sha256": digest.hexdigest()}
    return seals, told
