"""How is a file on a disk encrypted, decrypted, and given to others?

Each writes a new file beside the one that is to be, and renames it when it is whole. Decrypting
reads twice: the first time everything is checked and nothing is written.
"""

from __future__ import annotations

import io
import os
import pathlib
import secrets
from collections.abc import Callable, Iterator
from typing import Any

from tfdist.encryption import keys, streams

SUFFIX = ".age"
_CHUNK_BYTES = 2**20


def encrypt_file(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    encrypt_to: Any,
) -> pathlib.Path:
    """Encrypts a file; the file itself stays, readable, until somebody removes it.

    Args:
        path: The file.
        to: The new file; by default `path` with ".age" behind it.
        encrypt_to: Public keys of age, "age1...", or paths of files of them, one a line.

    Returns:
        The path of the new file.

    Raises:
        ValueError: A key is none, or `path` is encrypted or a folder.
        FileExistsError: The new file is there already.
        ImportError: `pyrage` is not installed.
    """
    source = _file(path)
    target = pathlib.Path(to) if to is not None else source.with_name(source.name + SUFFIX)
    recipients = keys.recipients(encrypt_to)
    if streams.is_encrypted(source):
        raise ValueError(
            f"{source} is encrypted already. To give it to others, use rotate_file, or the flag "
            "--rotate."
        )
    _refuse_there(target)
    _replaced(target, lambda new: streams.encrypt(_chunks(source), new, recipients))
    return target


def decrypt_file(
    path: str | os.PathLike[str],
    to: str | os.PathLike[str] | None = None,
    *,
    identity_file: str | os.PathLike[str] | None = None,
) -> pathlib.Path:
    """Decrypts a file onto the disk; nothing is written where it is not as it was encrypted.

    Args:
        path: The encrypted file.
        to: The new file, which its owner alone may read; by default `path` without ".age".
        identity_file: A file of identities; by default what TFDIST_IDENTITY_FILE names.

    Returns:
        The path of the new file.

    Raises:
        ValueError: The file is none of age, was changed or cut short, or is for others.
        FileExistsError: The new file is there already.
        ImportError: `pyrage` is not installed.
    """
    source = _file(path)
    if to is None and source.suffix != SUFFIX:
        raise ValueError(
            f"{source} does not end in {SUFFIX}, so the new file has no name. Give it one by `to`, "
            "or the flag --to."
        )
    target = pathlib.Path(to) if to is not None else source.with_suffix("")
    identities = keys.identities(identity_file)
    _refuse_there(target)
    streams.decrypt(source, _Nowhere(), identities)

    def write(new: pathlib.Path) -> None:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            streams.decrypt(source, file, identities)
            file.flush()
            os.fsync(file.fileno())

    _replaced(target, write)
    return target


def rotate_file(
    path: str | os.PathLike[str],
    *,
    encrypt_to: Any,
    identity_file: str | os.PathLike[str] | None = None,
) -> None:
    """Encrypts an encrypted file anew, to other keys; its content is in memory meanwhile.

    Args:
        path: The encrypted file, which is replaced.
        encrypt_to: As in `encrypt_file`; those that are not among them cannot read the new file.
        identity_file: As in `decrypt_file`.

    Raises:
        ValueError: As in `decrypt_file`; the file stays as it is.
        ImportError: `pyrage` is not installed.
    """
    source, content = _file(path), io.BytesIO()
    recipients = keys.recipients(encrypt_to)
    streams.decrypt(source, content, keys.identities(identity_file))
    content.seek(0)
    chunks = iter(lambda: content.read(_CHUNK_BYTES), b"")
    _replaced(source, lambda new: streams.encrypt(chunks, new, recipients))


def write_encrypted(content: io.BytesIO, path: pathlib.Path, recipients: list[Any]) -> None:
    """Writes an encrypted file that replaces the one of its name, once it is whole."""
    chunks = iter(lambda: content.read(_CHUNK_BYTES), b"")
    _replaced(path, lambda new: streams.encrypt(chunks, new, recipients))


def _replaced(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    new = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    try:
        write(new)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise


def _file(path: str | os.PathLike[str]) -> pathlib.Path:
    found = pathlib.Path(path)
    if found.is_dir():
        raise ValueError(f"{found} is a folder. Give a file, such as a tar archive of it.")
    return found


def _refuse_there(path: pathlib.Path) -> None:
    if path.exists():
        raise FileExistsError(f"{path} is there already. Remove it, or name another new file.")


def _chunks(path: pathlib.Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


class _Nowhere:
    """Takes what is checked and not kept."""

    def write(self, piece: bytes) -> None:
        pass
