"""Is a checkpoint on disk whole?  Folders that appear at once or not at all, with checksums.

Synopsis:

    >>> import pathlib, tempfile
    >>> root = pathlib.Path(tempfile.mkdtemp())
    >>> folder = publish(root, lambda path: (path / "a").write_bytes(b"b") and None, step=5)
    >>> folder.name, read_manifest(folder)["step"]
    ('000001-step-5', 5)
    >>> (folder / "a").write_bytes(b"c")
    1
    >>> read_manifest(folder)
    Traceback (most recent call last):
    ValueError: the content of a is not what was written

A checkpoint is a folder of files and a `manifest.json`, which holds facts about the run, and the
size and SHA-256 of each file. Nothing here knows what the files mean.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Callable, Collection, Mapping
from typing import Any

from tfdist.cluster.wording import shorten

FORMAT = 1
MANIFEST = "manifest.json"

_NAME = re.compile(r"(\d{6,})-step-(\d+)")
_WRITING, _REMOVING = ".writing-", ".removing-"


def publish(
    root: pathlib.Path,
    write: Callable[[pathlib.Path], None],
    *,
    step: int,
    facts: Mapping[str, Any] | None = None,
) -> pathlib.Path:
    """Writes a checkpoint completely and durably, or not at all.

    Args:
        root: The folder of all checkpoints.
        write: Writes the files, but no folders, into the given folder.
        step: Updates that the run has made; part of the name.
        facts: Further content of the manifest; has to fit into JSON.

    Returns:
        The new folder, the newest in `root`.

    Raises:
        OSError: It could not be written. Everything else is unchanged.
    """
    serial = 1 + max((_serial(folder) for folder in list_checkpoints(root)), default=0)
    final = root / f"{serial:06d}-step-{step}"
    temporary = root / f"{_WRITING}{final.name}-{os.getpid()}"
    try:
        temporary.mkdir()
        write(temporary)
        files = {path.name: _seal(path) for path in sorted(temporary.iterdir())}
        with open(temporary / MANIFEST, "w", encoding="utf-8") as file:
            file.write(text_of(step, facts or {}, files))
            _flush(file)
        _sync(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    _sync(root)
    return final


def text_of(step: int, facts: Mapping[str, Any], files: Mapping[str, Any]) -> str:
    """Returns what a manifest says.

    Args:
        step: Updates that the run has made.
        facts: As in `publish`.
        files: Size and SHA-256 of each file, by name.
    """
    body = {"format": FORMAT, "step": step, **facts, "files": dict(files)}
    return json.dumps({**body, "checksum": _checksum(body)}, indent=1)


def read_manifest(folder: pathlib.Path) -> dict[str, Any]:
    """Reads a checkpoint's manifest, and checks every byte of its files.

    Raises:
        ValueError: Something is not as it was written; the message names it, and begins with a
            lower-case letter.
    """
    try:
        content = (folder / MANIFEST).read_bytes()
    except OSError as error:
        raise ValueError(f"{MANIFEST} cannot be read ({error.strerror})") from error
    body = parse(content)
    for name, facts in body["files"].items():
        _check_file(folder / name, facts)
    return body


def parse(content: bytes) -> dict[str, Any]:
    """Reads what a manifest says, of which no file is looked at.

    Raises:
        ValueError: It is not what was written; as `read_manifest`.
    """
    try:
        body = json.loads(content)
        checksum = body.pop("checksum")
        is_as_written = checksum == _checksum(body)
    except (ValueError, LookupError, AttributeError, TypeError, RecursionError) as error:
        raise ValueError(f"{MANIFEST} is cut short or garbled ({len(content)} bytes)") from error
    if not is_as_written:
        raise ValueError(f"the content of {MANIFEST} is not what was written")
    if body.get("format") != FORMAT:
        found = shorten(body.get("format"))
        raise ValueError(f"its format is {found}, and this tfdist reads {FORMAT} only")
    files = body.get("files")
    if not isinstance(files, dict) or not all(_is_seal(*item) for item in files.items()):
        raise ValueError(f"{MANIFEST} has no list of files with their sizes: {shorten(files)}")
    return dict(body)


def peek(folder: pathlib.Path) -> dict[str, Any]:
    """Reads a manifest without checks; returns {} if it cannot be read."""
    try:
        body = json.loads((folder / MANIFEST).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return body if isinstance(body, dict) else {}


def list_checkpoints(root: pathlib.Path) -> list[pathlib.Path]:
    """Returns the checkpoints in `root`, whole or damaged, the oldest first."""
    if not root.is_dir():
        return []
    return sorted((path for path in root.iterdir() if _NAME.fullmatch(path.name)), key=_serial)


def remove(folder: pathlib.Path) -> None:
    """Removes a checkpoint; even if interrupted, what is left does not look like one."""
    hidden = folder.with_name(_REMOVING + folder.name)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def remove_all_but(root: pathlib.Path, kept: Collection[pathlib.Path]) -> None:
    """Removes the checkpoints in `root` that are not among `kept`."""
    for folder in list_checkpoints(root):
        if folder not in kept:
            remove(folder)


def remove_leftovers(root: pathlib.Path) -> None:
    """Removes what an interrupted writer has left; no other writer may be active."""
    for path in list(root.iterdir()):
        if path.name.startswith((_WRITING, _REMOVING)):
            shutil.rmtree(path, ignore_errors=True)


def _serial(folder: pathlib.Path) -> int:
    match = _NAME.fullmatch(folder.name)
    return int(match[1]) if match else 0


def _seal(path: pathlib.Path) -> dict[str, Any]:
    """Flushes a file to the disk; returns its size and checksum."""
    with open(path, "rb+") as file:
        _flush(file)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def _is_seal(name: str, facts: Any) -> bool:
    """Tells whether an entry is a plain file name with a description as `_seal` makes it."""
    return is_plain(name) and isinstance(facts, dict) and {"bytes", "sha256"} <= facts.keys()


def is_plain(name: str) -> bool:
    """Tells whether it names a file of a folder, and none elsewhere."""
    return name not in ("", ".", "..") and not set(name) & set("/\\\0") and name.isprintable()


def _check_file(path: pathlib.Path, facts: Mapping[str, Any]) -> None:
    try:
        size = path.stat().st_size
        if size != facts["bytes"]:
            raise ValueError(f"{path.name} has {size} bytes instead of {facts['bytes']}")
        if _sha256(path) != facts["sha256"]:
            raise ValueError(f"the content of {path.name} is not what was written")
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from error


def _sha256(path: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _flush(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())


def _sync(folder: pathlib.Path) -> None:
    """Makes the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
