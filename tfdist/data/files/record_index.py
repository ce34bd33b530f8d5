"""Where in a file does each record begin?

A record can be read by its number where the places of all are known. They are found once, and kept
in a small file beside the records, `NAME.index.npy`, which is made anew when the file changes.
Nothing here needs TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import mmap
import os
import pathlib
import struct
import tempfile
from collections.abc import Callable, Sequence

import numpy as np

_HEAD, _TAIL = 12, 4  # bytes of a TFRecord before and after its content: its length, checksums
_CHUNK = 2**24  # bytes of a text that are looked at together


@dataclasses.dataclass(frozen=True)
class Records:
    """The records of files, in the files' order, of which each can be read by its number.

    Attributes:
        files: The files.
        places: For each file, where its records begin, and their bytes: int64 `(records, 2)`.
    """

    files: tuple[str, ...]
    places: tuple[np.ndarray, ...]

    @functools.cached_property
    def _stops(self) -> np.ndarray:
        """The number behind each file's last record."""
        return np.cumsum([len(places) for places in self.places])

    def __len__(self) -> int:
        """Returns the records of all files."""
        return int(self._stops[-1])

    def read(self, number: int) -> bytes:
        """Returns the content of a record.

        Raises:
            ValueError: The file has become shorter since its records were counted.
        """
        which = int(np.searchsorted(self._stops, number, side="right"))
        number -= int(self._stops[which]) - len(self.places[which])
        begin, size = map(int, self.places[which][number])
        with open(self.files[which], "rb", buffering=0) as file:
            content = os.pread(file.fileno(), size, begin)
        if len(content) != size:
            raise ValueError(
                f"{self.files[which]} has become shorter since its records were counted: record "
                f"{number} ends at byte {begin + size}. Write it anew before training begins."
            )
        return content


def records_of(files: Sequence[str | os.PathLike[str]], *, format: str) -> Records:
    """Finds the records of files, or reads from beside them where they are.

    Args:
        files: Their paths, in the order in which their records are numbered.
        format: "tfrecord", or "text" for a record a line.

    Raises:
        ValueError: There is no file, or one is not of this format, or cut.
    """
    paths = tuple(str(pathlib.Path(file)) for file in files)
    if not paths:
        raise ValueError("There are no records: files is empty. Give the paths of files.")
    find = _FORMATS.get(format)
    if find is None:
        raise ValueError(f"format={format!r} is unknown; there are {', '.join(_FORMATS)}.")
    return Records(paths, tuple(_kept(path, format, find) for path in paths))


def _kept(path: str, format: str, find: Callable[[str], np.ndarray]) -> np.ndarray:
    """Returns the places of a file's records, from the file beside it if that is not outdated."""
    state = os.stat(path)
    head = np.array([[state.st_size, state.st_mtime_ns], [len(format), 0]], np.int64)
    beside = path + ".index.npy"
    try:
        known = np.load(beside, allow_pickle=False)
        if known.dtype == np.int64 and known.ndim == 2 and np.array_equal(known[:2], head):
            return known[2:]
    except (OSError, ValueError, EOFError):
        pass  # there is none, or it is cut
    places = find(path)
    try:
        folder, name = os.path.split(os.path.abspath(beside))
        with tempfile.NamedTemporaryFile(dir=folder, prefix=name, delete=False) as file:
            np.save(file, np.concatenate([head, places]))
        os.replace(file.name, beside)
    except OSError:
        pass  # a folder that cannot be written: they are found again next time
    return places


def _of_tfrecords(path: str) -> np.ndarray:
    size, begins, lengths, position = os.path.getsize(path), [], [], 0
    if not size:
        return np.zeros([0, 2], np.int64)
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        if content[:2] == b"\x1f\x8b":
            raise ValueError(
                f"{path} is compressed by gzip, so that a record cannot be read by its number. "
                "Decompress it, and compress what is in its records (images already are)."
            )
        length_at = struct.Struct("<Q").unpack_from
        while position < size:
            length = length_at(content, position)[0] if position + _HEAD <= size else size
            if position + _HEAD + length + _TAIL > size:
                raise ValueError(
                    f"{path} is no file of TFRecords, or is cut: the record at byte {position} "
                    f"ends behind the file's {size} bytes. Write it anew."
                )
            begins.append(position + _HEAD)
            lengths.append(length)
            position += _HEAD + length + _TAIL
    return np.stack([begins, lengths], axis=1).astype(np.int64)


def _of_lines(path: str) -> np.ndarray:
    size, ends = os.path.getsize(path), []
    with open(path, "rb") as file:
        begin = 0
        while chunk := file.read(_CHUNK):
            ends.append(np.flatnonzero(np.frombuffer(chunk, np.uint8) == ord("\n")) + begin)
            begin += len(chunk)
    newlines = np.concatenate(ends) if ends else np.zeros([0], np.int64)
    if size and (not len(newlines) or newlines[-1] != size - 1):
        newlines = np.append(newlines, size)  # the last line has no end of its own
    begins = np.concatenate([[0], newlines[:-1] + 1]) if len(newlines) else newlines
    return np.stack([begins, newlines - begins], axis=1).astype(np.int64)


_FORMATS = {"tfrecord": _of_tfrecords, "text": _of_lines}
