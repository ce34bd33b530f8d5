"""What is a stream of global batches?

Whatever `fit` is given becomes a `Source`, of whose batches each worker makes its own rows only.
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
    """A stream of global batches, of which a worker makes its own replicas' rows.

    Attributes:
        num_batches: Batches in one pass over the data; None where only the end will tell.
        num_examples: Examples in one pass; None where only the end will tell.
        spec: Structure of tensor specs of one batch: `x`, `(x, y)` or `(x, y, sample_weight)`.
        stream: `stream(first_pass, start)` gives a `tf.data.Dataset` of `(global_size, parts)`
            from batch `start` of that pass on; `(global_size, parts, sample)` where the workers
            have to compare what they have read, see `same_data`; with the batch's number, from 1,
            as a fourth part where they have to agree on the end as well, see loop/agreed_end.py.
        endless: Whether a stream goes on into the following passes by itself.
        is_infinite: Whether a pass never ends.
        is_seekable: Whether `stream` reaches any pass; else each iterator is the next one.
        is_dataset: Whether it is a `tf.data.Dataset` of the user's, which counts its iterators.
        is_share: Whether it holds this worker's own examples alone, see already_sharded.py.
        begin_with: Makes the present pass begin with a batch in its middle, at no cost; None where
            what comes before it has to be read.
        identity: Gives the facts that have to be the same on every worker, by name.
        batch_size: Gives the rows of the largest batch, as far as that is known before; else None.
        is_even: Whether every batch has that many rows.
        padding: The shape that every batch is given, where it is given one.
        arrays: What `stream` is made of, where a loop can gather the rows itself; else None.
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
    identity: Callable[[], dict[str, Any]] = dict
    begin_with: Callable[[int], None] | None = None
    batch_size: Callable[[], int | None] = lambda: None
    is_even: bool = False
    padding: Padding | None = None
    arrays: Arrays | None = None
    on_pass_begin: Callable[[], None] = lambda: None
    on_pass_end: Callable[[], None] = lambda: None
