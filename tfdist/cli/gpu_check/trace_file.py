"""Which events does a trace of TensorFlow's profiler hold?  Read from its file, an XSpace.

The messages are few and their numbers fixed (tsl/profiler/protobuf/xplane.proto), so they are read
here by their encoding: TensorFlow's own classes for them have moved from release to release.

Synopsis:

    >>> list(fields(bytes([0x08, 0x96, 0x01, 0x12, 0x02, 0x68, 0x69])))
    [(1, 150), (2, b'hi')]
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator

_PLANES = 1  # of XSpace
_NAME, _LINES, _METADATA = 2, 3, 4  # of XPlane
_KEY, _VALUE = 1, 2  # of a map's entry
_METADATA_NAME = 2
_LINE_NAME, _LINE_START_NS, _EVENTS = 2, 3, 4  # of XLine
_EVENT_METADATA, _EVENT_OFFSET_PS, _EVENT_PS = 1, 2, 3  # of XEvent


@dataclasses.dataclass(frozen=True)
class Event:
    """Something that ran.

    Attributes:
        plane: The device, such as "/device:GPU:0" or "/host:CPU".
        line: Its stream, or thread.
        name: Of the kernel, copy or operation.
        start: In seconds.
        end: In seconds.
    """

    plane: str
    line: str
    name: str
    start: float
    end: float


def events_of(folder: str) -> list[Event]:
    """Returns the events of all traces in a folder."""
    paths = sorted(pathlib.Path(folder).rglob("*.xplane.pb"))
    return [event for path in paths for event in events(path.read_bytes())]


def events(space: bytes) -> Iterator[Event]:
    """Gives the events of an encoded XSpace."""
    for plane in _all(space, _PLANES):
        name = _text(plane, _NAME)
        names: dict[int, str] = {}
        for entry in _all(plane, _METADATA):
            for metadata in _all(entry, _VALUE):
                names[_number(entry, _KEY)] = _text(metadata, _METADATA_NAME)
        for line in _all(plane, _LINES):
            begin = _number(line, _LINE_START_NS) * 1e-9
            label = _text(line, _LINE_NAME)
            for event in _all(line, _EVENTS):
                start = begin + _number(event, _EVENT_OFFSET_PS) * 1e-12
                end = start + _number(event, _EVENT_PS) * 1e-12
                known = names.get(_number(event, _EVENT_METADATA), "")
                yield Event(name, label, known, start, end)


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Gives number and value of each field of an encoded message, in its order.

    Raises:
        ValueError: It is no such message.
    """
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = _varint(message, at)
            yield number, value
        elif kind in (1, 5):
            size = 8 if kind == 1 else 4
            yield number, message[at : at + size]
            at += size
        elif kind == 2:
            size, at = _varint(message, at)
            yield number, message[at : at + size]
            at += size
        else:
            raise ValueError(
                f"A field of kind {kind} is in no trace. Make the trace anew; its file is cut off."
            )


def _varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7


def _all(message: bytes, wanted: int) -> Iterator[bytes]:
    for number, value in fields(message):
        if number == wanted and isinstance(value, bytes):
            yield value


def _text(message: bytes, wanted: int) -> str:
    return next(_all(message, wanted), b"").decode(errors="replace")


def _number(message: bytes, wanted: int) -> int:
    found = (value for number, value in fields(message) if number == wanted)
    return next((value for value in found if isinstance(value, int)), 0)
