"""What if a `grain.MapDataset` is asked for a worker's own rows, instead of whole batches?

A `MapDataset` of Grain makes any element by its number, whatever shuffles, maps and repeats stand
in it. So of one that ends with `.batch(n)`, with or without a `.repeat()` after it, each worker
asks for its own rows, and a run that goes on asks for the next ones. What the batches are made of
is not told by Grain, but can be tried: rows of the dataset below are compared with those of the
first batch. Whatever else Grain has (`IterDataset`, `DataLoader`) is read as Keras reads it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import sys
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.data.numbered_rows import NumberedRows

_CURE = "Give a grain.MapDataset that ends with .batch(n)"
_SAMPLES = 8  # rows that are compared between the workers


def is_grain(x: Any) -> bool:
    """Tells whether data is of Grain, which is not imported for it."""
    grain = sys.modules.get("grain")
    # A module of the user's may have that name too.
    names = ("MapDataset", "IterDataset", "DataLoader")
    return isinstance(x, tuple(getattr(grain, name) for name in names if hasattr(grain, name)))


@dataclasses.dataclass(frozen=True)
class Batches:
    """What the batches of a `grain.MapDataset` are.

    Attributes:
        rows: The dataset of examples.
        size: Rows of a batch.
        length: Batches that a pass over `rows` gives.
        again: Whether the next pass over `rows` is asked for by higher numbers, for another order;
            else the same one comes again.
    """

    rows: Any
    size: int
    length: int
    again: bool = True

    def bounds(self, batch: Any) -> tuple[Any, Any]:
        """Returns the first row of a batch, and the one behind its last: integers, or tensors."""
        number, batch = batch // self.length, batch % self.length
        begin = number * len(self.rows) if self.again else number * 0
        last = len(self.rows) - batch * self.size
        first = begin + batch * self.size
        smaller = tf.minimum if tf.is_tensor(last) else min
        return first, first + smaller(last, self.size)

    def get_rows(self, numbers: np.ndarray) -> Any:
        """Returns rows as Grain would batch them."""
        made = list(self._threads.map(self.rows.__getitem__, numbers.tolist()))
        return keras.tree.lists_to_tuples(
            keras.tree.map_structure(lambda *values: np.stack(values), *made)
        )

    @functools.cached_property
    def _threads(self) -> concurrent.futures.ThreadPoolExecutor:
        """As many as Grain takes itself to read a MapDataset."""
        most = max(sys.modules["grain"].ReadOptions().num_threads, 1)
        return concurrent.futures.ThreadPoolExecutor(most, thread_name_prefix="tfdist-grain")


def numbered_rows(x: Any) -> NumberedRows | str:
    """Returns rows of a dataset of Grain, or why they cannot be asked for, as a sentence's part.

    It makes the first batch, and a few rows.
    """
    found = _batches_of(x)
    if isinstance(found, str):
        return found
    is_endless_below = len(found.rows) == sys.maxsize
    is_endless = is_endless_below or len(x) == sys.maxsize
    of_pass = min(len(found.rows), found.length * found.size)
    # Of a pass that never ends, the beginning.
    samples = np.unique(np.linspace(0, min(of_pass, 2**20) - 1, _SAMPLES).astype(np.int64))
    return NumberedRows(
        found.get_rows,
        found.size,
        num_batches=None if is_endless else len(x),
        num_rows=None if is_endless else of_pass * (len(x) // found.length),
        bounds=found.bounds,
        is_even=is_endless_below or found.length * found.size <= len(found.rows),
        samples=samples,
        calls=2,
    )


def _batches_of(x: Any) -> Batches | str:
    """Returns what the batches of a dataset of Grain are, or why that cannot be told."""
    kind, repeats = type(x).__name__, False
    batched = x
    if kind == "RepeatMapDataset":
        (batched,), repeats = x.parents, True
    if not isinstance(x, sys.modules["grain"].MapDataset):
        return f"a {kind} of Grain gives one batch after the other. {_CURE}"
    if type(batched).__name__ != "BatchMapDataset" or not len(batched):
        return f"the grain.MapDataset ends with a {type(batched).__name__}. {_CURE}"
    (rows,) = batched.parents
    first = batched[0]
    leaves = keras.tree.flatten(first)
    if not all(isinstance(leaf, np.ndarray) and leaf.ndim and leaf.dtype != object
               for leaf in leaves):
        return f"the grain.MapDataset has examples that are no arrays. {_CURE}, of arrays"
    size = len(leaves[0])
    if len(batched) not in (len(rows) // size, -(-len(rows) // size)):
        return _own_batches()
    found = Batches(rows, size, len(batched))
    if not _are_rows(first, rows, range(size)):
        return _own_batches()
    if repeats and len(x) > len(batched):
        second = x[len(batched)]
        if not _are_rows(second, rows, range(len(rows), len(rows) + size)):
            if not _are_rows(second, rows, range(size)):
                return _own_batches()
            found = dataclasses.replace(found, again=False)
    return found


def _own_batches() -> str:
    return (
        "the batches of the grain.MapDataset are not its examples side by side (a batch_fn, or "
        f"examples that come out differently each time). {_CURE} without batch_fn"
    )


def _are_rows(batch: Any, rows: Any, numbers: range) -> bool:
    """Tells whether the first and the last row of a batch are these."""
    for place in {0, len(numbers) - 1}:
        row = rows[numbers[place]]
        try:
            keras.tree.assert_same_structure(batch, row)
        except (TypeError, ValueError):
            return False
        pairs = zip(keras.tree.flatten(batch), keras.tree.flatten(row), strict=True)
        if not all(_is_row(leaf, place, np.asarray(value)) for leaf, value in pairs):
            return False
    return True


def _is_row(leaf: np.ndarray, place: int, value: np.ndarray) -> bool:
    if leaf.shape[1:] != value.shape or place >= len(leaf):
        return False
    found = leaf[place]
    return bool(np.all((found == value) | ((found != found) & (value != value))))
