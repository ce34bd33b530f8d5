"""Which rows does the first step get when it is checked: split over the replicas, and whole on one?

"Whole" is a split too: replica 0 holds all rows and counts alone, and each other replica computes
on them as well, as on rows that do not count. So one step, and one trace of it, does both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.share import bounds
from tfdist.communication.workers import Workers
from tfdist.data import rows as rows_lib
from tfdist.data.source import Source
from tfdist.first_step import rankings
from tfdist.step.replicas import Batch

_LEAST = 2  # rows of each replica, where the batch has as many


@dataclasses.dataclass(frozen=True)
class FirstRows:
    """The same rows in both splits.

    Attributes:
        split: Their batch, as it is split in training.
        whole: Their batch with replica 0 holding all.
        count: How many they are.
        is_fixed: Whether the shapes of a batch of the data fix the number of its rows.
    """

    split: Batch
    whole: Batch
    count: int
    is_fixed: bool


def first_rows(
    element: Any, spec: Any, source: Source, workers: Workers, *, evenly: bool = False,
    numbers: np.ndarray | None = None,
) -> FirstRows | None:
    """Makes both splits of a batch, or of some of its rows, which are enough and take less memory.

    Args:
        element: What a source's stream gives, of this worker: `(size, parts, ...)`.
        spec: The specs of `parts`.
        source: The source.
        workers: All workers; each has to call it.
        evenly: Whether all replicas get the same number of rows, whatever they do in training.
        numbers: Ranks the rows, of which the lowest and the highest are taken. None: the first.

    Returns:
        The rows; None where they cannot be joined, since they are of different lengths.
    """
    size, parts, *_ = element
    sizes = _sizes(int(size), source, workers)
    is_fixed = source.padding is None and rows_lib.fixed(spec[0]) is not None
    count = sum(sizes) if is_fixed else _wanted(sum(sizes), source, len(sizes))
    count = count // len(sizes) * len(sizes) or count if evenly else count
    chosen = np.arange(count) if numbers is None else rankings.extremes(numbers, count)
    with tf.device("/CPU:0"):
        own, first = [], sum(sizes[: workers.share.first_replica])
        for part, replica in zip(parts, workers.share.replicas, strict=True):
            held = np.sort(chosen[(chosen >= first) & (chosen < first + sizes[replica])])
            if len(held):
                own.append(rows_lib.take(part, held - first))
            first += sizes[replica]
        whole = _joined(_of_all(own, parts[0], workers))
        if whole is None:
            return None
        whole = rows_lib.take(whole, np.searchsorted(np.sort(chosen), chosen))
        total = len(sizes)
        own_bounds = [bounds(count, replica, total) for replica in range(total)]
        split = tuple(
            rows_lib.cut(whole, *map(int, rows_lib.never_empty(*own_bounds[replica], count)))
            for replica in workers.share.replicas
        )
    lengths = [stop - start for start, stop in own_bounds]
    return FirstRows(
        split=_batch(count, split, lengths),
        whole=_batch(count, (whole,) * len(parts), [count] + [0] * (total - 1)),
        count=count, is_fixed=is_fixed,
    )


def rankings_of(element: Any, source: Source, workers: Workers) -> Iterator[np.ndarray]:
    """Yields the numbers that rank the rows of a batch, see `rankings.rankings`.

    All of them are computed, by all workers together, when the first is asked for.
    """
    size, parts, *_ = element
    with tf.device("/CPU:0"):
        ranked = rankings.rankings(parts, _sizes(int(size), source, workers), workers)
    yield from ranked


def _batch(count: int, parts: tuple[Any, ...], sizes: Sequence[int]) -> Batch:
    return Batch(tf.constant(count, tf.int32), parts, tf.constant(sizes, tf.int32))


def _sizes(size: int, source: Source, workers: Workers) -> list[int]:
    """Returns the rows of each replica of all workers in the batch as it came."""
    share = workers.share
    if not source.is_share:
        split = [bounds(size, replica, share.num_replicas) for replica in range(share.num_replicas)]
    else:
        local = share.local_replicas
        own = [int(number) for number in workers.gather(size)[:, 0]]
        split = [bounds(number, i, local) for number in own for i in range(local)]
    return [stop - start for start, stop in split]


def _wanted(size: int, source: Source, replicas: int) -> int:
    """Returns how many rows to take: about what one replica holds, so that all of them fit it.

    Replicas get unequal numbers of rows if they do in training. Some code is right for equal
    numbers alone: a mean of means.
    """
    count = min(size, max(-(-size // replicas), _LEAST * replicas))
    largest = source.batch_size() if source.num_examples else None
    last = source.num_examples % largest if source.num_examples and largest else 0
    if size % replicas or last % replicas:
        return count if count % replicas else min(size, count + 1)
    return count // replicas * replicas or count


def _of_all(own: list[Any], like: Any, workers: Workers) -> list[Any]:
    """Returns the parts of all workers that hold some of the rows, in order."""
    if not workers.has_others:
        return own
    payload = b"".join(map(_framed, _components(_joined(own)))) if own else b""
    return [_read(one, like) for one in workers.payloads(payload) if one]


def _components(structure: Any) -> list[tf.Tensor]:
    """Returns the dense tensors that a structure is made of."""
    leaves = [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]
    return tf.nest.flatten(leaves, expand_composites=True)


def _framed(tensor: tf.Tensor) -> bytes:
    text = tf.io.serialize_tensor(tensor).numpy()
    return len(text).to_bytes(8, "little") + text


def _read(payload: bytes, like: Any) -> Any:
    """Makes a structure like another one of the `_components` that were framed."""
    start = 0

    def read(dtype: tf.DType) -> tf.Tensor:
        nonlocal start
        begin = start + 8
        start = begin + int.from_bytes(payload[start:begin], "little")
        return tf.io.parse_tensor(payload[begin:start], dtype)

    def leaf(old: Any) -> Any:
        parts = [read(part.dtype) for part in tf.nest.flatten(old, expand_composites=True)]
        return tf.nest.pack_sequence_as(old, parts, expand_composites=True)

    return keras.tree.map_structure(leaf, like, none_is_leaf=False)


def _joined(parts: list[Any]) -> Any:
    """Concatenates the rows of some structures; None where their other dimensions differ."""

    def join(*leaves: Any) -> Any:
        if isinstance(leaves[0], tf.SparseTensor):
            return tf.sparse.concat(0, list(leaves), expand_nonconcat_dims=True)
        return tf.concat(list(leaves), axis=0)

    if len(parts) == 1:
        return parts[0]
    shapes = [
        [tuple(leaf.shape[1:]) for leaf in keras.tree.flatten(part) if isinstance(leaf, tf.Tensor)]
        for part in parts
    ]
    if any(shape != shapes[0] for shape in shapes):
        return None
    return keras.tree.map_structure(join, *parts, none_is_leaf=False)
