"""How is a `tf.data.Dataset` read by all workers?

Every worker goes through all of it, in global batches, and takes its own rows of each. Where maps
make the examples, it makes those of its own rows only (own_rows.py). Static shapes need
the size of the largest batch in advance. It is taken from the dataset's `.batch(n)`, or else from
its first batch, unless reading that would change the batches that follow.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.share import Share, bounds
from tfdist.compat import keras_internals, tf_datasets
from tfdist.data import rows, same_data
from tfdist.data.order import OrderedBatches
from tfdist.data.pipelines.own_rows import OwnRows, own_rows
from tfdist.data.rows import unconverted
from tfdist.data.source import Source

_LOG = logging.getLogger("tfdist")


def dataset_source(
    dataset: tf.data.Dataset,
    *,
    share: Share,
    fill_empty: bool = True,
    is_sampled: bool = False,
    reads_ahead: bool = True,
    goes_on: bool = False,
    of_rows: Callable[..., Any] | None = None,
    all_rows: bool = False,
) -> Source:
    """Makes the source of a dataset of global batches, all of which every worker goes through.

    Args:
        dataset: Batched in global batches.
        share: Which replicas this worker feeds.
        fill_empty: Whether a replica that a batch leaves empty gets one row, which will not count.
        is_sampled: Whether the stream's elements carry a sample of what was read.
        reads_ahead: Whether batches may be read before they are asked for.
        goes_on: Whether the stream may go on with the following passes by itself.
        of_rows: A function of each row that the batches go through last, as in `Dataset.map`, or
            None.
        all_rows: Whether a batch is one part with all rows, instead of one for each replica.

    Raises:
        ValueError: The dataset is not batched, or has tensors of different numbers of rows for
            several replicas.
    """
    rows.refuse_unbatched(dataset.element_spec)
    reader = Share(0, 1, 1) if all_rows else share
    own = _own_rows(dataset, reader, goes_on=goes_on)
    is_seekable = goes_on and own is not None and own.order is not None
    if of_rows is not None:
        dataset = dataset.map(of_rows)
    spec = dataset.element_spec
    if share.num_replicas > 1:
        rows.refuse_unlike(spec)
    is_of_unknown_length = int(dataset.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    if share.has_others:
        dataset = same_data.in_one_order(dataset)

    bounds_of = rows.computed_bounds if fill_empty else bounds

    def split(data: Any, global_size: tf.Tensor, whose: Share, first: Any = 0) -> tuple[Any, ...]:
        """Returns the rows of each replica of a share; `data` begins with row `first`."""
        parts = []
        for replica in whose.replicas:
            start, stop = bounds_of(global_size, replica, whose.num_replicas)
            parts.append(rows.cut(data, start - first, stop - first))
        return tuple(parts)

    def parts_of(*batch: Any) -> tuple[Any, ...]:
        """Cuts a global batch."""
        data = rows.without_optionals(batch if isinstance(spec, tuple) else batch[0])
        global_size = rows.count_alike(data) if share.num_replicas > 1 else rows.count(data)
        tf.debugging.assert_positive(
            global_size, "A batch of the dataset holds no examples. Filter before .batch()."
        )
        if share.num_replicas == 1:
            return global_size, (data,)
        parts = (data,) if all_rows else split(data, global_size, share)
        return (global_size, parts, same_data.sample(data)) if is_sampled else (global_size, parts)

    def parts_of_own(global_size: tf.Tensor, first: tf.Tensor, sample: Any, data: Any) -> Any:
        """Cuts the rows of a global batch that this worker has made, from the first one on."""
        if own is not None and own.fixed_size is not None:  # constants, which shapes show
            global_size = tf.constant(own.fixed_size)
            first = own.first_of(global_size)
        if of_rows is not None:
            data = of_rows(*data) if isinstance(data, tuple) else of_rows(data)
        parts = split(data, global_size, reader, first)
        return (global_size, parts, sample) if is_sampled else (global_size, parts)

    def with_number(number: tf.Tensor, element: Any) -> Any:
        return (*element, number)

    def stream(first_pass: int, start: int) -> tf.data.Dataset:
        # Each iterator over a dataset is the next pass, as in Keras, if its order is not known.
        if own is not None:
            made = own.passes(first_pass, start) if is_seekable else own.batches(start)
            batches = made.map(unconverted(parts_of_own))
        else:
            rest = dataset.skip(start) if start else dataset
            batches = rest.map(unconverted(parts_of))
        if is_sampled and is_of_unknown_length:
            batches = batches.enumerate(start + 1).map(unconverted(with_number))
        return batches.prefetch(tf.data.AUTOTUNE) if reads_ahead else batches

    return Source(
        None, None, rows.open_spec(stream(0, 0).element_spec[1][0]), stream,
        is_infinite=int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY,
        identity=lambda: {**same_data.of_dataset(dataset), **(own.facts if own else {})},
        makes_own_rows=own is not None,
        is_seekable=is_seekable, endless=is_seekable,
        batch_size=lambda: largest_batch(dataset), is_even=rows.fixed(spec) is not None,
        reads_ahead=reads_ahead, has_all_rows=all_rows,
    )


def _own_rows(dataset: tf.data.Dataset, share: Share, *, goes_on: bool) -> OwnRows | None:
    """Returns the stream of a worker's own rows; None where it makes all rows of each batch."""
    if not share.has_others and not goes_on:
        return None
    found = own_rows(dataset, share)
    if isinstance(found, OwnRows):
        return found if share.has_others or found.order is not None else None
    if found is not None and share.has_others and share.first_replica == 0:
        _LOG.warning(
            "Every worker makes all examples of the dataset, not only its own: %s.", found
        )
    return None


def largest_batch(dataset: tf.data.Dataset) -> int | None:
    """Returns the rows of the largest batch of a dataset; None if that cannot be found out.

    Args:
        dataset: A batched dataset. If neither its spec nor a `.batch(n)` shows the size, its first
            batch is read once more, unless the dataset draws random numbers: reading would change
            their order.
    """
    known = rows.fixed(dataset.element_spec) or tf_datasets.batch_size_of(dataset)
    if known is not None or any(True for _ in same_data.random_parts(dataset)):
        return known
    for batch in dataset.take(1):
        return int(rows.count(rows.without_optionals(batch)))
    return None


def first_batch(x: Any, adapter: Any) -> int | None:
    """Returns the rows of the first batch of a generator or a `PyDataset`; None for anything else.

    Args:
        x: What `fit` was given.
        adapter: What Keras made of it.
    """
    batch = keras_internals.first_of_generator(adapter)
    if batch is None and isinstance(x, (OrderedBatches, keras.utils.PyDataset)):
        batch = x[0]
    if batch is None:
        return None
    first = next(leaf for leaf in keras.tree.flatten(batch) if leaf is not None)
    return int(first.shape[0])
