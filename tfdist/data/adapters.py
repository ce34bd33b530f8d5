"""Which examples does a replica get, in which order?

Whatever `fit` is given becomes a `Source`: a stream of *global* batches of which each worker makes
its own rows only. For arrays the order of the examples is a function of the seed and the epoch,
`epoch_order`, and of nothing else: it does not depend on how many workers or replicas there are,
and any position in it can be reached at once. A `tf.data.Dataset`, a `keras.utils.PyDataset` or a
generator is read by every worker, in global batches, and each takes its rows of every batch.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.share import Share, bounds
from tfdist.compat import keras_internals
from tfdist.data import rows, same_data
from tfdist.data.arrays import Arrays, arrays_of, as_tensors, own_rows
from tfdist.data.largest_batch import first_batch, largest_batch
from tfdist.data.py_batches import OrderedBatches
from tfdist.data.shapes import Padding

_plain = tf.autograph.experimental.do_not_convert  # no Python control flow to convert, no warnings


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order in which an epoch visits the examples of arrays when it shuffles.

    Args:
        num_examples: Examples in the data set.
        seed: Seed of the run; any non-negative int.
        epoch: Number of the epoch, from 0.

    Returns:
        A permutation of `range(num_examples)`, int64, the same on every worker of every cluster:
        NumPy's PCG64 seeded with the sequence `(seed, epoch)`.

    >>> epoch_order(5, seed=1, epoch=0).tolist()
    [4, 0, 1, 2, 3]
    """
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def worker_examples(order: np.ndarray, *, batch_size: int, share: Share) -> np.ndarray:
    """Returns the examples that a worker trains on in one epoch over arrays.

    Args:
        order: The epoch's order: `epoch_order`, or `range(n)` where nothing is shuffled.
        batch_size: Examples per step, over all replicas of all workers.
        share: Which replicas the worker feeds.

    Returns:
        Numbers of examples, int64, in the order in which they are seen. Those of all workers are
        disjoint, and together they are `order`.

    >>> worker_examples(np.arange(10), batch_size=4, share=Share(1, 1, 2)).tolist()
    [2, 3, 6, 7, 9]
    """
    seen = []
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        for replica in share.replicas:
            start, stop = bounds(len(batch), replica, share.num_replicas)
            seen.append(batch[start:stop])
    return np.concatenate(seen)


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


def make_source(
    x: Any,
    y: Any = None,
    *,
    share: Share,
    sample_weight: Any = None,
    batch_size: int | None = None,
    steps: int | None = None,
    shuffle: bool | str = False,
    class_weight: dict[int, float] | None = None,
    seed: int = 0,
) -> Source:
    """Makes the source of what `keras.Model.fit` accepts as `x`, with Keras's own meaning.

    Args:
        x: Arrays (NumPy, TensorFlow, pandas, SciPy sparse, ...) or structures of them, a
            `tf.data.Dataset` of global batches, a `keras.utils.PyDataset`, a generator, ...
        y: Targets, where `x` is arrays.
        share: Which replicas this worker feeds.
        sample_weight: Weights, where `x` is arrays.
        batch_size: Rows of a *global* batch, where `x` is arrays; 32 by default, as in Keras.
        steps: Steps an epoch, from which Keras infers a batch size where none is given.
        shuffle: Whether arrays are visited in `epoch_order` (True), in batches of neighbours in
            that order of batches ("batch"), or as they lie (False).
        class_weight: Class to weight, as in `fit`.
        seed: Seed of the order.

    Raises:
        ValueError: There is no example, or Keras itself refuses the data.
    """
    refuse_batch_size(batch_size)
    if isinstance(x, (tf.distribute.DistributedDataset, tf.distribute.DistributedIterator)):
        raise ValueError(
            f"The data was distributed already: x={type(x).__name__}. Give the tf.data.Dataset "
            "itself, in global batches; tfdist splits it."
        )
    is_py_dataset = isinstance(x, keras.utils.PyDataset)
    x = _ordered_py_dataset(x, shuffle=shuffle, seed=seed)
    adapter = _adapter(x, y, sample_weight, batch_size, steps, class_weight, shuffle)
    if isinstance(adapter, keras_internals.array_adapter_class()):
        return _array_source(adapter, share=share, shuffle=shuffle, seed=seed)
    dataset = adapter.get_tf_dataset()
    source = dataset_source(dataset, share=share, is_sampled=share.has_others)
    return dataclasses.replace(
        source,
        num_batches=adapter.num_batches,
        is_infinite=source.is_infinite or (is_py_dataset and adapter.num_batches is None),
        is_dataset=isinstance(x, tf.data.Dataset),
        batch_size=source.batch_size if x is dataset else lambda: first_batch(x, adapter),
        begin_with=x.begin_with if isinstance(x, OrderedBatches) else None,
        on_pass_begin=adapter.on_epoch_begin,
        on_pass_end=adapter.on_epoch_end,
    )


def refuse_batch_size(batch_size: Any) -> None:
    """Raises a ValueError where a global batch cannot be of that size; None is Keras's default."""
    is_whole = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if batch_size is not None and not (is_whole and batch_size >= 1):
        raise ValueError(
            f"A global batch holds at least one example, but batch_size={batch_size!r}. "
            "Give a positive integer, or leave it out for 32."
        )


def _adapter(
    x: Any, y: Any, sample_weight: Any, batch_size: Any, steps: Any, class_weight: Any, shuffle: Any
) -> Any:
    leaves = [leaf for leaf in keras.tree.flatten((x, y, sample_weight)) if hasattr(leaf, "shape")]
    if any(len(leaf.shape) > 0 and leaf.shape[0] == 0 for leaf in leaves):
        raise ValueError(
            "The data holds no examples: "
            f"shapes {[tuple(leaf.shape) for leaf in leaves]}. Give at least one example."
        )
    if isinstance(x, OrderedBatches):
        if y is not None or sample_weight is not None:
            raise ValueError(
                "A PyDataset brings its targets and weights itself, but y or sample_weight was "
                "given as well. Return them from the PyDataset's __getitem__."
            )
        kind = keras_internals.py_dataset_adapter_class()
        return kind(x, class_weight=class_weight, shuffle=False)
    arrays = keras_internals.is_arrays((x, y, sample_weight))
    return keras_internals.data_adapter(
        x=x, y=y, sample_weight=sample_weight, batch_size=batch_size, steps_per_epoch=steps,
        class_weight=class_weight, shuffle=bool(shuffle) and arrays,
    )


def _array_source(adapter: Any, *, share: Share, shuffle: bool | str, seed: int) -> Source:
    arrays = as_tensors(keras_internals.adapter_arrays(adapter))
    size, examples, steps = adapter.batch_size, adapter._num_samples, adapter.num_batches

    def order(epoch: np.ndarray) -> np.ndarray:
        if shuffle != "batch":
            return epoch_order(examples, seed=seed, epoch=int(epoch))
        full = examples // size  # the smaller batch stays the last one, or all would be cut across
        starts = epoch_order(full, seed=seed, epoch=int(epoch)) * size
        chunks = (starts[:, np.newaxis] + np.arange(size)).reshape(-1)
        return np.concatenate([chunks, np.arange(full * size, examples)])

    def order_of(number: int) -> np.ndarray:
        return order(np.asarray(number)) if shuffle else np.arange(examples)

    def stream(first_pass: int, start: int) -> tf.data.Dataset:
        passes_on, start = divmod(start, steps)
        first_pass += passes_on

        def batches_of(epoch: tf.Tensor) -> tf.data.Dataset:
            numbers = tf.range(examples, dtype=tf.int64)
            if shuffle:
                numbers = tf.ensure_shape(tf.numpy_function(order, [epoch], tf.int64), [examples])
            begin = tf.where(epoch == first_pass, tf.cast(start, tf.int64), 0)
            batches = tf.data.Dataset.range(begin, steps)
            return batches.map(
                _plain(lambda i: numbers[i * size : tf.minimum((i + 1) * size, examples)])
            )

        def parts_of(indices: tf.Tensor) -> tuple[tf.Tensor, tuple[Any, ...]]:
            global_size = tf.size(indices)

            def rows_of(replica: int) -> Any:
                own = own_rows(indices, global_size, replica, share.num_replicas)
                return keras_internals.take_rows(arrays, own)

            return global_size, tuple(rows_of(replica) for replica in share.replicas)

        passes = tf.data.Dataset.range(first_pass, np.iinfo(np.int64).max)
        indices = passes.flat_map(_plain(batches_of))
        batches = indices.map(_plain(parts_of), num_parallel_calls=2).prefetch(tf.data.AUTOTUNE)
        # Rewriting so small a pipeline takes longer than running it, and copies the arrays.
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        return batches.with_options(options)

    one_row = keras_internals.take_rows(arrays, tf.zeros([1], tf.int64))
    spec = keras.tree.map_structure(tf.type_spec_from_value, one_row, none_is_leaf=False)
    if any(not isinstance(leaf, tf.TensorSpec) for leaf in keras.tree.flatten(spec)):
        spec = stream(0, 0).element_spec[1][0]  # of sparse and ragged rows TensorFlow knows best
    spec = rows.open_spec(spec)
    facts = {"number of examples": examples, "batch size": size}
    return Source(
        steps, examples, spec, stream, endless=True, is_seekable=True,
        batch_size=lambda: size, is_even=examples % size == 0,
        identity=lambda: {**facts, **same_data.of_arrays(adapter._inputs)},
        arrays=arrays_of(
            arrays, order=order_of, batch_size=size, replicas=share.replicas,
            num_replicas=share.num_replicas,
        ),
    )


def dataset_source(
    dataset: tf.data.Dataset, *, share: Share, fill_empty: bool = True, is_sampled: bool = False
) -> Source:
    """Makes the source of a dataset of global batches, which every worker reads as a whole.

    Args:
        dataset: Batched in global batches.
        share: Which replicas this worker feeds.
        fill_empty: Whether a replica that a batch leaves empty gets one row, which will not count.
        is_sampled: Whether the stream's elements carry a sample of what was read.

    Raises:
        ValueError: The dataset is not batched.
    """
    spec = dataset.element_spec
    rows.refuse_unbatched(spec)
    is_of_unknown_length = int(dataset.cardinality()) == tf.data.UNKNOWN_CARDINALITY
    if share.has_others:
        dataset = same_data.in_one_order(dataset)

    def parts_of(*batch: Any) -> tuple[Any, ...]:
        data = rows.without_optionals(batch if isinstance(spec, tuple) else batch[0])
        global_size = rows.count(data)
        tf.debugging.assert_positive(
            global_size, "A batch of the dataset holds no examples. Filter before .batch()."
        )
        if share.num_replicas == 1:
            return global_size, (data,)

        def rows_of(replica: int) -> Any:
            start, stop = bounds(global_size, replica, share.num_replicas)
            if fill_empty:
                start, stop = rows.never_empty(start, stop, global_size)
            return rows.cut(data, start, stop)

        parts = tuple(rows_of(replica) for replica in share.replicas)
        return (global_size, parts, same_data.sample(data)) if is_sampled else (global_size, parts)

    def with_number(number: tf.Tensor, element: Any) -> Any:
        return (*element, number)

    def stream(first_pass: int, start: int) -> tf.data.Dataset:
        del first_pass  # each iterator over a dataset is the next pass, as in Keras
        rest = dataset.skip(start) if start else dataset
        batches = rest.map(_plain(parts_of))
        if is_sampled and is_of_unknown_length:
            batches = batches.enumerate(start + 1).map(_plain(with_number))
        return batches.prefetch(tf.data.AUTOTUNE)

    return Source(
        None, None, rows.open_spec(stream(0, 0).element_spec[1][0]), stream,
        is_infinite=int(dataset.cardinality()) == tf.data.INFINITE_CARDINALITY,
        identity=lambda: same_data.of_dataset(dataset),
        batch_size=lambda: largest_batch(dataset), is_even=rows.fixed(spec) is not None,
    )


def _ordered_py_dataset(x: Any, *, shuffle: Any, seed: int) -> Any:
    if not isinstance(x, keras.utils.PyDataset) or x.num_batches is None:
        return x
    return OrderedBatches(x, functools.partial(epoch_order, seed=seed) if shuffle else None)
