"""Where do temporary files lie, if on no disk?  In a folder that is memory, or they are refused.

Keras writes the vocabularies of its layers, and reads them, through temporary files.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import tempfile
from collections.abc import Iterator

from tfdist.cluster import contract

FOLDER = contract.MEMORY_FOLDER
_DEFAULT = "/dev/shm"
_MOUNTS = "/proc/self/mounts"
_OF_MEMORY = ("tmpfs", "ramfs")


@contextlib.contextmanager
def temporary_files_in_memory() -> Iterator[None]:
    """Lets Python's temporary files, of all threads, be made in memory, within a `with` block.

    Raises:
        RuntimeError: There is no folder that is known to be memory.
    """
    folder, before = folder_of_memory(), tempfile.tempdir
    tempfile.tempdir = folder
    try:
        yield
    finally:
        tempfile.tempdir = before


def folder_of_memory() -> str:
    """Returns a folder that is memory: /dev/shm, or the one of TFDIST_MEMORY_FOLDER.

    Raises:
        RuntimeError: It is not there, or lies on a disk.
    """
    folder = os.environ.get(FOLDER) or _DEFAULT
    kind = _file_system(folder)
    if kind not in _OF_MEMORY or not os.access(folder, os.W_OK):
        found = f"is on a file system of kind {kind!r}" if kind else "is of an unknown kind"
        raise RuntimeError(
            f"The temporary files of an encrypted model have to lie in memory, and {folder!r} "
            f"{found}, or cannot be written to. Set {FOLDER} to a folder of a tmpfs (Linux)."
        )
    return folder


def _file_system(folder: str) -> str:
    """Returns the kind of the file system that a folder is on; "" where that is not known."""
    if not sys.platform.startswith("linux") or not os.path.isdir(folder):
        return ""
    real = pathlib.Path(folder).resolve()
    kind, longest = "", -1
    for line in pathlib.Path(_MOUNTS).read_text(encoding="utf-8").splitlines():
        _, place, found, *_ = line.split()
        mounted = pathlib.Path(place.replace("\\040", " "))
        # Of two in one place, the later one hides the other.
        if real.is_relative_to(mounted) and len(mounted.parts) >= longest:
            kind, longest = found, len(mounted.parts)
    return kind
