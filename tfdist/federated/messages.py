"""How do a server and its clients write to each other?  JSON and plain arrays, checked when read.

Synopsis:

    >>> import numpy as np
    >>> sent = pack("update", {"examples": 3}, {"w": np.ones(2, np.float32)})
    >>> got = unpack(sent, "update")
    >>> got.header, got.arrays
    ({'examples': 3}, {'w': array([1., 1.], dtype=float32)})

What comes over a network may be anything: nothing of it is run, no pickle is read, and whatever is
not as `pack` writes it is refused.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdist.cluster.wording import shorten

_MAGIC = b"TFDF1"
_LENGTH = 8  # bytes that say how long the JSON is
_MOST_JSON = 2**28
_DTYPES = ("bool", "bfloat16", "float16", "float32", "float64", "int32", "int64", "uint8",
           "uint32", "uint64")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Message:
    """What was read.

    Attributes:
        kind: What it is about.
        header: Plain values.
        arrays: Arrays by name, which nobody else holds.
    """

    kind: str
    header: dict[str, Any]
    arrays: dict[str, np.ndarray]


def pack(
    kind: str, header: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None
) -> bytes:
    """Returns a message as bytes.

    Args:
        kind: What it is about.
        header: Plain values, as JSON has them.
        arrays: Arrays of numbers, by name.
    """
    held = {name: np.asarray(value) for name, value in (arrays or {}).items()}
    told = [[name, value.dtype.name, list(value.shape)] for name, value in held.items()]
    text = json.dumps({"kind": kind, "header": dict(header), "arrays": told}).encode()
    parts = [_little(value).tobytes() for value in held.values()]
    return b"".join([_MAGIC, len(text).to_bytes(_LENGTH, "little"), text, *parts])


def unpack(data: bytes, *kinds: str) -> Message:
    """Reads a message of one of these kinds.

    Args:
        data: What was received.
        *kinds: The kinds that are expected.

    Raises:
        ValueError: It is no message, or of another kind.
    """
    begin = len(_MAGIC) + _LENGTH
    if data[: len(_MAGIC)] != _MAGIC:
        raise _refused(f"it begins with {data[:8]!r}")
    size = int.from_bytes(data[len(_MAGIC) : begin], "little")
    if size > min(_MOST_JSON, len(data) - begin):
        raise _refused(f"its header of {size} bytes is cut short")
    try:
        told = json.loads(data[begin : begin + size])
        kind, header, rows = told["kind"], told["header"], told["arrays"]
        specs = [(str(name), str(dtype), [int(n) for n in shape]) for name, dtype, shape in rows]
    except (ValueError, LookupError, TypeError, RecursionError) as error:
        raise _refused(f"its header cannot be read ({type(error).__name__})") from None
    if not isinstance(header, dict):
        raise _refused(f"its header is {shorten(header)}")
    if kind not in kinds:
        raise ValueError(
            f"A message of the kind {shorten(kind)} came where {' or '.join(kinds)} was expected. "
            "Let the server and all of its clients have the same tfdist, and the same options."
        )
    return Message(kind, header, _arrays(data, begin + size, specs))


def _arrays(
    data: bytes, start: int, specs: list[tuple[str, str, list[int]]]
) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for name, dtype, shape in specs:
        if dtype not in _DTYPES or name in found or any(n < 0 for n in shape):
            raise _refused(f"its array {shorten(name)} is of {shorten(dtype)} and {shape}")
        kind, count = _dtype(dtype), math.prod(shape)
        if start + count * kind.itemsize > len(data):
            raise _refused(f"its array {shorten(name)} is cut short")
        flat = np.frombuffer(data, kind, count, start)
        found[name] = flat.astype(kind.newbyteorder("="), copy=True).reshape(shape)
        start += count * kind.itemsize
    if start != len(data):
        raise _refused(f"{len(data) - start} bytes are left over")
    return found


def _dtype(name: str) -> np.dtype:
    if name == "bfloat16":
        import ml_dtypes  # comes with Keras and TensorFlow

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name).newbyteorder("<")


def _little(value: np.ndarray) -> np.ndarray:
    return value if value.dtype.name == "bfloat16" else value.astype(_dtype(value.dtype.name))


def _refused(why: str) -> ValueError:
    return ValueError(
        f"This is no message of tfdist.federated: {why}. Look for a version of tfdist that differs "
        "between the server and its clients, or for somebody else who speaks at this address."
    )
