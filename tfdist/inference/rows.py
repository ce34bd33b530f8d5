"""What can be predicted for, read a range of rows at a time?

A source says how many rows it has and reads any range of them, so that memory holds a few batches
only, and every worker reads nothing but its own. A row that cannot be read is left out and told,
with its id and the reason.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import keras
import numpy as np
import tensorflow as tf

from tfdist.cluster.wording import shorten
from tfdist.cluster.worker_number import rank_and_size
from tfdist.communication.share import bounds
from tfdist.data.files.record_index import Records, records_of

_LOOKED_AT = 64  # rows of arrays whose values tell one array from another


@dataclasses.dataclass(frozen=True)
class Bad:
    """A row that could not be read.

    Attributes:
        id: Its id.
        reason: Why.
    """

    id: Any
    reason: str


@dataclasses.dataclass(frozen=True)
class Block:
    """Rows of a source.

    Attributes:
        x: What the model is given: an array, or a structure of them, of shape `(rows, ...)`.
        ids: The id of each row, `(rows,)`.
        bad: The rows that are not among them.
    """

    x: Any
    ids: np.ndarray
    bad: tuple[Bad, ...] = ()


class Rows(Protocol):
    """A source of rows. Write one for what is not here: these three methods are all of it."""

    def __len__(self) -> int:
        """Returns the number of rows, those that cannot be read included."""

    def describe(self) -> Any:
        """Returns, of plain values, what has to be the same where predictions go on."""

    def read(self, begin: int, end: int) -> Block:
        """Reads the rows from number `begin` up to `end`."""


@dataclasses.dataclass(frozen=True)
class ArrayRows:
    """Rows of arrays; also of a file, `ArrayRows(np.load(path, mmap_mode="r"))`.

    Attributes:
        x: An array of shape `(rows, ...)`, or a structure of such arrays.
    """

    x: Any

    def __post_init__(self) -> None:
        lengths = {len(array) for array in keras.tree.flatten(self.x)}
        if len(lengths) != 1:
            raise ValueError(
                f"The arrays have {sorted(lengths)} rows. Give arrays with a row for each example."
            )

    def __len__(self) -> int:
        return len(keras.tree.flatten(self.x)[0])

    def describe(self) -> Any:
        step = max(len(self) // _LOOKED_AT, 1)
        return [
            [list(array.shape), str(array.dtype), zlib.crc32(array[::step].tobytes())]
            for array in map(np.asanyarray, keras.tree.flatten(self.x))
        ]

    def read(self, begin: int, end: int) -> Block:
        part = keras.tree.map_structure(lambda array: np.asarray(array[begin:end]), self.x)
        return Block(part, np.arange(begin, end))


@dataclasses.dataclass(frozen=True)
class RecordRows:
    """Records of TFRecord files, or lines of texts.

    Attributes:
        files: Paths, in the order of the rows.
        parse_fn: Makes the inputs of one example, without a batch dimension, of the content of a
            record, a string scalar, as in `Dataset.map`.
        format: "tfrecord", or "text" for a record a line.
    """

    files: Sequence[str | os.PathLike[str]]
    parse_fn: Callable[[tf.Tensor], Any]
    format: str = "tfrecord"

    @functools.cached_property
    def _records(self) -> Records:
        return records_of(self.files, format=self.format)

    @functools.cached_property
    def _parse(self) -> Callable[[tf.Tensor], Any]:
        return _traced(self.parse_fn)

    def __len__(self) -> int:
        return len(self._records)

    def describe(self) -> Any:
        return [[os.path.basename(file), os.path.getsize(file)] for file in self.files]

    def read(self, begin: int, end: int) -> Block:
        return _made(self._records.read, self._parse, range(begin, end), np.arange(begin, end))


@dataclasses.dataclass(frozen=True)
class ImageRows:
    """Images, a file each: float32 of `(rows, height, width, channels)` from 0 to 255.

    Attributes:
        files: Paths of JPEG, PNG, GIF or BMP files; they are the rows' ids.
        size: Height and width to which each is resized, bilinearly.
        channels: 1 for grey, 3 for colours.
    """

    files: Sequence[str | os.PathLike[str]]
    size: tuple[int, int]
    channels: int = 3

    def __len__(self) -> int:
        return len(self.files)

    def describe(self) -> Any:
        names = "\n".join(map(str, self.files)).encode()
        return [len(self), zlib.crc32(names), list(self.size), self.channels]

    def read(self, begin: int, end: int) -> Block:
        files = [str(file) for file in self.files[begin:end]]
        return _made(tf.io.read_file, self._decode, files, np.asarray(files))

    @functools.cached_property
    def _decode(self) -> Callable[[tf.Tensor], Any]:
        return _traced(self._image)

    def _image(self, content: tf.Tensor) -> tf.Tensor:
        image = tf.io.decode_image(content, self.channels, expand_animations=False)
        return tf.image.resize(tf.ensure_shape(image, [None, None, self.channels]), self.size)


def plain(identity: Any) -> Any:
    """Returns an id as a Python value."""
    return identity.item() if isinstance(identity, np.generic) else identity


def as_rows(source: Any) -> Rows:
    """Returns a source as it is, and arrays as rows."""
    return source if callable(getattr(source, "read", None)) else ArrayRows(source)


def split(items: Any, *, rank: int | None = None, size: int | None = None) -> Any:
    """Returns this worker's share of items: contiguous, never padded, by the rule of training.

    The shares of all workers, one behind the other, are all items in their order, and no two differ
    by more than one.

    >>> [split(["a", "b", "c"], rank=rank, size=2) for rank in (0, 1)]
    [['a', 'b'], ['c']]

    Args:
        items: A list, a tuple, an array, a data frame, or whatever else can be sliced; of a dict,
            each of its values is split.
        rank: This worker's number, from 0; by default that of the job.
        size: The number of workers; by default that of the job.

    Returns:
        The share, of the type that a slice of the items has; empty where there are fewer items than
        workers.

    Raises:
        ValueError: The items are a text, or have several lengths, or rank and size name no worker.
    """
    if isinstance(items, (str, bytes)):
        raise ValueError(f"items={items!r} is one text. Give a list of texts.")
    rank, size = rank_and_size(rank, size)
    lengths = {len(part) for part in (items.values() if isinstance(items, dict) else [items])}
    if len(lengths) != 1:
        raise ValueError(f"The items have the lengths {sorted(lengths)}. Give as many of each.")
    start, stop = bounds(lengths.pop(), rank, size)
    if isinstance(items, dict):
        return {name: part[start:stop] for name, part in items.items()}
    return items[start:stop]


def _reason(error: Exception) -> str:
    """Returns the first line of an error, without TensorFlow's names of nodes."""
    text = getattr(error, "message", str(error)).partition("\n")[0]
    return shorten(re.sub(r"\{\{.*?\}\}\s*", "", text))


def _traced(make: Callable[[tf.Tensor], Any]) -> Callable[[tf.Tensor], Any]:
    function: Callable[[tf.Tensor], Any] = tf.function(
        make, input_signature=[tf.TensorSpec([], tf.string)]
    )
    return function


def _made(
    read: Callable[[Any], Any], make: Callable[[tf.Tensor], Any], items: Sequence[Any],
    ids: np.ndarray,
) -> Block:
    """Reads items and makes inputs of each; those with which that fails are bad."""
    made, bad = [], []
    for item, identity in zip(items, ids, strict=True):
        try:
            made.append(keras.tree.map_structure(np.asarray, make(tf.constant(read(item)))))
        except (ValueError, tf.errors.OpError, OSError) as error:
            bad.append(Bad(plain(identity), _reason(error)))
    is_good = np.isin(ids, [row.id for row in bad], invert=True)
    if not made:
        return Block(None, ids[is_good], tuple(bad))
    return Block(
        keras.tree.map_structure(lambda *rows: np.stack(rows), *made), ids[is_good], tuple(bad)
    )
