"""Which rows of the global batch does a replica hold?

A step knows its position while it is traced, and computes sums, means and draws over the whole
batch from it. How a batch is split is in communication/share.py.
"""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any


@dataclasses.dataclass(frozen=True)
class Timesteps:
    """How long the targets of a batch are, if they are padded to a length.

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
        keeps_filler: Whether the filler, the row that an empty replica computes on, is kept, and
            its effects are undone afterwards.
        padded_rows: Rows that the replica computes on under static shapes; the first `local_size`
            of them count. None if rows that do not count are cut.
        timesteps: The length of the targets, if that is padded too; else None.
        fixed_rows: Rows that the replica computes on, including those that do not count, if the
            traced shapes show them; None if their first dimension is open.
        inputs: The tensors of this replica's rows; () if unknown.
        is_compiled: Whether XLA compiles what this replica does, for `jit_compile=True`.
        keeps_rows: Whether the loss that a model was compiled with stays one value a row; see
            example_losses.py.
        row_seed: Draws the seeds of random layers, where one example, or one piece of the rows, is
            computed by itself; or None.
        of_rows: Rows of the replica, those that do not count included, where these are a piece of
            them; else None.
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
    is_compiled: bool = False
    keeps_rows: bool = False
    row_seed: Callable[[], Any] | None = None
    of_rows: int | None = None

    @property
    def has_all(self) -> bool:
        """Whether the replica has the whole batch, and computes as one device does."""
        return bool(self.collectives.num_replicas == 1)

    @property
    def may_have_filler(self) -> bool:
        """Whether an empty replica computes on one row, which does not count."""
        return self.padded_rows is None and not self.has_all

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
