"""What is a stream of global batches?

The data that `fit` gets becomes a `Source`; each worker makes only its own rows of its batches.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.data.arrays import Arrays
from tfdist.data.shapes import Padding


@dataclasses.dataclass(frozen=True)
class Source:
    """A stream of global batches; a worker makes only the rows of its own replicas.

    Attributes:
        num_batches: Batches in one pass over the data; None if unknown before the end.
        num_examples: Examples in one pass; None if unknown before the end.
        spec: Structure of tensor specs of one batch: `x`, `(x, y)` or `(x, y, sample_weight)`.
        stream: `stream(first_pass, start)` returns a `tf.data.Dataset` of `(global_size, parts)`
            from batch `start` of that pass on. Elements are `(global_size, parts, sample)` if the
            workers have to compare what they have read (same_data.py), with the batch's number,
            from 1, as a fourth part if they must agree on the end too (loop/agreed_end.py).
        endless: Whether a stream continues with the following passes by itself.
        is_infinite: Whether a pass never ends.
        is_seekable: Whether `stream` can start at any pass; else each iterator is the next pass.
        is_dataset: Whether it is the user's `tf.data.Dataset`, which counts its iterators.
        is_share: Whether it holds only this worker's own examples, see already_sharded.py.
        makes_own_rows: Whether a worker makes the examples of its own rows only.
        has_all_rows: Whether a batch is one part with all rows, the same on every worker, from
            which replicas take theirs later.
        begin_with: Makes the current pass begin with a batch in its middle, at no cost; None if
            the batches before it have to be read.
        identity: Returns the facts that must be the same on every worker, by name.
        batch_size: Returns the rows of the largest batch; None if unknown in advance.
        is_even: Whether every batch has that many rows.
        padding: The shape that every batch is padded to; None without static shapes.
        reads_ahead: Whether batches may be read before they are asked for.
        arrays: The arrays behind `stream`, if a loop can gather the rows itself; else None.
        on_pass_begin: Called before a pass; on_pass_end after it (`PyDataset`'s hooks).
    """

    num_batches: int | None
    num_examples: int | None
    spec: Any
    stream: Callable[[int, int], tf.data.Dataset]
    endless: bool = False
    is_infinite: bool = False
    is_seekable: bool = False
    is_dataset: bool = False
    is_share: bool = False
    makes_own_rows: bool = False
    has_all_rows: bool = False
    identity: Callable[[], dict[str, Any]] = dict
    begin_with: Callable[[int], None] | None = None
    batch_size: Callable[[], int | None] = lambda: None
    is_even: bool = False
    padding: Padding | None = None
    reads_ahead: bool = True
    arrays: Arrays | None = None
    on_pass_begin: Callable[[], None] = lambda: None
    on_pass_end: Callable[[], None] = lambda: None

    @property
    def examples_of_step(self) -> float | None:
        """Examples of a batch, in the mean of one pass; None if unknown before the end."""
        if not self.num_examples or not self.num_batches:
            return None
        return self.num_examples / self.num_batches
