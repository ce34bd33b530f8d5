"""Which rows of the global batch does a replica hold?

The one place that knows how a global batch is split. A replica's rows are contiguous, the rows of
replica 0 come first, and no two replicas differ by more than one row:

>>> [bounds(10, replica, 4) for replica in range(4)]
[(0, 3), (3, 5), (5, 8), (8, 10)]
>>> [bounds(1, replica, 2) for replica in range(2)]
[(0, 1), (1, 1)]
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Iterator
from typing import Any, TypeVar

Int = TypeVar("Int")  # a Python int, or an integer scalar tensor


def bounds(global_size: Int, replica: Any, num_replicas: int) -> tuple[Int, Int]:
    """Returns the rows of `replica` in a global batch as `(start, stop)`.

    Args:
        global_size: Rows in the global batch; an int or an integer scalar tensor.
        replica: Number of the replica among all replicas of all workers; int or tensor.
        num_replicas: Replicas of all workers together.

    Returns:
        `(start, stop)`, of the type of `global_size`. `start == stop` where a batch is smaller
        than the number of replicas and this one stays empty; the last replicas do first.
    """
    return _start(global_size, replica, num_replicas), _start(
        global_size, replica + 1, num_replicas
    )


def _start(global_size: Any, replica: Any, num_replicas: int) -> Any:
    # The ceiling of replica * size / replicas: even, and it gives a lone row to replica 0.
    return (replica * global_size + num_replicas - 1) // num_replicas


@dataclasses.dataclass(frozen=True)
class Lengths:
    """The few lengths that batches of examples of varying length are given; see lengths.py.

    Attributes:
        buckets: The lengths, ascending.
        is_open: Of each tensor of a batch, in flat order, whether its second dimension varies. The
            numbers of those that do count as "the open tensors" below.
        target: Which of the open tensors is the first one of the targets; None where none is.
    """

    buckets: tuple[int, ...]
    is_open: tuple[bool, ...]
    target: int | None


@dataclasses.dataclass(frozen=True)
class Padding:
    """The one shape that every batch of some data is given; see padding.py.

    Attributes:
        rows: Rows of each replica's part of a batch, those that do not count included.
        is_needed: Whether there may be rows or steps that do not count; else every batch is full.
        lengths: The lengths that there are, where examples have no one length.
    """

    rows: int
    is_needed: bool
    lengths: Lengths | None = None


@dataclasses.dataclass(frozen=True)
class Steps:
    """How long the targets of a batch are, where they are padded to a length.

    Attributes:
        padded: Their length in the step.
        counted: How many of their steps count: the first ones. Integer scalar.
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
        steps: The length of the targets, where that is padded too; None where it is not.
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
    steps: Steps | None = None
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
