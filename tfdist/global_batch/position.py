"""Which rows of the global batch does a replica hold?

A step knows its position while it is traced: what sums, means and draws over the whole batch come
to follows from it. How a batch is split is in communication/share.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Timesteps:
    """How long the targets of a batch are, where they are padded to a length.

    Attributes:
        padded: Their length in the step.
        counted: How many of their timesteps count: the first ones. Integer scalar.
    """

    padded: int
    counted: Any


@dataclasses.dataclass(frozen=True)
class Position:
    """Where a replica's rows stand in the global batch, in one step.

    Attributes:
        global_size: Rows in the global batch, all replicas of all workers. Integer scalar.
        local_size: Rows of this replica that count. 0 where the batch left it empty.
        offset: Number of this replica's first row in the global batch.
        collectives: How this replica sums and gathers over all of them.
        keeps_filler: Whether the row that an empty replica computes on stays in sight, since its
            effects are undone afterwards instead.
        padded_rows: Rows that the replica computes on where it is told to keep one shape: the
            first `local_size` of them count. None where rows that do not count are cut.
        timesteps: The length of the targets, where that is padded too; None where it is not.
        fixed_rows: Rows that the replica computes on, those that do not count included, where its
            tensors say so while they are traced; None where their first dimension is open.
        inputs: The tensors of this replica's rows; () where nobody knows them.
    """

    global_size: Any
    local_size: Any
    offset: Any
    collectives: Any
    keeps_filler: bool = False
    padded_rows: int | None = None
    timesteps: Timesteps | None = None
    fixed_rows: int | None = None
    inputs: tuple[Any, ...] = ()

    def fraction(self, dtype: Any) -> Any:
        """Returns `local_size / global_size` as a scalar of `dtype`: this replica's share."""
        import tensorflow as tf

        return tf.cast(self.local_size, dtype) / tf.cast(self.global_size, dtype)


_current = threading.local()  # MirroredStrategy traces every replica in a thread of its own


def current() -> Position | None:
    """Returns the position of the replica that this thread traces, or None outside of a step."""
    return getattr(_current, "position", None)


@contextlib.contextmanager
def at(position: Position | None) -> Iterator[None]:
    """Makes `position` the current one of this thread for the length of a `with` block."""
    before = current()
    _current.position = position
    try:
        yield
    finally:
        _current.position = before
