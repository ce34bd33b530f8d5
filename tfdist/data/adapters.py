"""How does the data that `fit` accepts become a stream of global batches?

Arrays are gathered in the order of order.py; each worker gathers only its own rows, of whatever
else has rows by number too (a `RowsDataset`, a `grain.MapDataset`). A `tf.data.Dataset`, another
`keras.utils.PyDataset` or a generator is read by every worker, in global batches of which it takes
its rows (pipelines/tf_data.py).
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.share import Share
from tfdist.compat import keras_internals
from tfdist.data import grain_rows, rows, rows_dataset, same_data
from tfdist.data.arrays import arrays_of, as_tensors
from tfdist.data.grain_rows import is_grain
from tfdist.data.numbered_rows import NumberedRows, gathered, rows_source
from tfdist.data.order import OrderedBatches, epoch_order
from tfdist.data.pipelines.tf_data import dataset_source, first_batch
from tfdist.data.rows import unconverted
from tfdist.data.rows_dataset import gives_rows
from tfdist.data.source import Source

_LOG = logging.getLogger("tfdist")
_CUTTABLE = (
    "Where that takes long, give what can be asked for rows: a tf.data.Dataset whose .map() makes "
    "the examples, tfdist.from_files, a tfdist.RowsDataset or a grain.MapDataset"
)


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
    all_rows: bool = False,
) -> Source:
    """Makes the source of what `keras.Model.fit` accepts as `x`, with Keras's own meaning.

    Args:
        x: Arrays (NumPy, TensorFlow, pandas, SciPy sparse, ...) or structures of them, a
            `tf.data.Dataset` of global batches, a `keras.utils.PyDataset`, a dataset of Grain, a
            generator, ...
        y: Targets, where `x` is arrays.
        share: Which replicas this worker feeds.
        sample_weight: Weights, where `x` is arrays.
        batch_size: Rows of a *global* batch, where `x` is arrays; 32 by default, as in Keras.
        steps: Steps per epoch, from which Keras infers a batch size if none is given.
        shuffle: Whether arrays are visited in `epoch_order` (True), in batches of neighbours in
            that order of batches ("batch"), or as they lie (False).
        class_weight: Class to weight, as in `fit`.
        seed: Seed of the order.
        all_rows: Whether a batch is one part with all rows, instead of one for each replica.

    Raises:
        ValueError: There are no examples, or Keras itself refuses the data.
    """
    refuse_batch_size(batch_size)
    if isinstance(x, (tf.distribute.DistributedDataset, tf.distribute.DistributedIterator)):
        raise ValueError(
            f"The data was distributed already: x={type(x).__name__}. Give the tf.data.Dataset "
            "itself, in global batches; tfdist splits it."
        )
    reader = Share(0, 1, 1) if all_rows else share
    is_alone = y is None and sample_weight is None
    numbered = _numbered(x, is_weighed=class_weight is not None) if is_alone else None
    if isinstance(numbered, NumberedRows):
        source = rows_source(
            numbered, share=reader, shuffle=shuffle and not is_grain(x), seed=seed,
            class_weight=class_weight,
        )
        return dataclasses.replace(source, has_all_rows=all_rows)
    is_dataset = isinstance(x, tf.data.Dataset)
    is_py_dataset = isinstance(x, keras.utils.PyDataset)
    x = _ordered_py_dataset(x, shuffle=shuffle, seed=seed)
    of_rows = None
    if class_weight is not None and is_dataset:
        # Keras's own map, over batches, looks at each row by itself.
        of_rows, class_weight = keras_internals.class_weight_map(class_weight), None
    adapter = adapter_of(x, y, sample_weight, batch_size, steps, class_weight, shuffle)
    if isinstance(adapter, keras_internals.array_adapter_class()):
        source = _array_source(adapter, share=reader, shuffle=shuffle, seed=seed)
        return dataclasses.replace(source, has_all_rows=all_rows)
    if not is_dataset and share.has_others and share.first_replica == 0:
        _LOG.warning(
            "Every worker makes all batches of the data, and takes its rows: %s.",
            numbered or f"a {type(x).__name__} gives one batch after the other. {_CUTTABLE}",
        )
    dataset = adapter.get_tf_dataset()
    # Threads or processes of Keras read a PyDataset ahead, and rest between two epochs: whoever
    # asks them then for a batch of the next one gets an error.
    reads_itself = is_py_dataset and x.workers > (0 if x.use_multiprocessing else 1)
    source = dataset_source(
        dataset, share=share, is_sampled=share.has_others, reads_ahead=not reads_itself,
        goes_on=True, of_rows=of_rows, all_rows=all_rows,
    )
    return dataclasses.replace(
        source,
        num_batches=adapter.num_batches,
        is_infinite=source.is_infinite or (is_py_dataset and adapter.num_batches is None),
        is_dataset=is_dataset,
        batch_size=source.batch_size if is_dataset else lambda: first_batch(x, adapter),
        begin_with=x.begin_with if isinstance(x, OrderedBatches) else None,
        on_pass_begin=adapter.on_epoch_begin,
        on_pass_end=adapter.on_epoch_end,
    )


def _numbered(x: Any, *, is_weighed: bool) -> NumberedRows | str | None:
    """Returns rows that can be asked for by number, or why they cannot, as a sentence's part."""
    if gives_rows(x):
        return rows_dataset.numbered_rows(x)
    if is_grain(x):
        return None if is_weighed else grain_rows.numbered_rows(x)  # Keras refuses it
    if isinstance(x, keras.utils.PyDataset):
        return (
            "a PyDataset makes whole batches. Where it can make any rows, make it a "
            "tfdist.RowsDataset, and define get_rows(indices) instead of __getitem__"
        )
    return None


def refuse_batch_size(batch_size: Any) -> None:
    """Raises a ValueError if `batch_size` is not a positive integer; None is Keras's default."""
    is_whole = isinstance(batch_size, (int, np.integer)) and not isinstance(batch_size, bool)
    if batch_size is not None and not (is_whole and batch_size >= 1):
        raise ValueError(
            f"A global batch holds at least one example, but batch_size={batch_size!r}. "
            "Give a positive integer, or leave it out for 32."
        )


def adapter_of(
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
    inputs, examples = keras_internals.adapter_inputs(adapter), keras_internals.num_samples(adapter)
    size, steps = adapter.batch_size, adapter.num_batches

    def order(epoch: np.ndarray) -> np.ndarray:
        if shuffle != "batch":
            return epoch_order(examples, seed=seed, epoch=int(epoch))
        full = examples // size  # the smaller batch stays last, or all the others would shift
        starts = epoch_order(full, seed=seed, epoch=int(epoch)) * size
        chunks = (starts[:, np.newaxis] + np.arange(size)).reshape(-1)
        return np.concatenate([chunks, np.arange(full * size, examples)])

    def order_of(number: int) -> np.ndarray:
        return order(np.asarray(number)) if shuffle else np.arange(examples)

    def batches_of(epoch: tf.Tensor, begin: tf.Tensor) -> tf.data.Dataset:
        numbers = tf.range(examples, dtype=tf.int64)
        if shuffle:
            numbers = tf.ensure_shape(tf.numpy_function(order, [epoch], tf.int64), [examples])
        batches = tf.data.Dataset.range(begin, steps)
        return batches.map(
            unconverted(lambda i: numbers[i * size : tf.minimum((i + 1) * size, examples)])
        )

    stream = gathered(
        batches_of, lambda own: keras_internals.take_rows(arrays, own), steps, share=share
    )
    one_row = keras_internals.take_rows(arrays, tf.zeros([1], tf.int64))
    spec = rows.spec_of(one_row)
    if any(not isinstance(leaf, tf.TensorSpec) for leaf in keras.tree.flatten(spec)):
        spec = stream(0, 0).element_spec[1][0]  # for sparse and ragged rows
    spec = rows.open_spec(spec)
    facts = {"number of examples": examples, "batch size": size}
    return Source(
        steps, examples, spec, stream, endless=True, is_seekable=True,
        batch_size=lambda: size, is_even=examples % size == 0,
        identity=lambda: {**facts, **same_data.of_arrays(inputs)},
        arrays=arrays_of(
            arrays, order=order_of, batch_size=size, replicas=share.replicas,
            num_replicas=share.num_replicas,
        ),
    )


def _ordered_py_dataset(x: Any, *, shuffle: Any, seed: int) -> Any:
    if not isinstance(x, keras.utils.PyDataset) or x.num_batches is None:
        return x
    return OrderedBatches(x, functools.partial(epoch_order, seed=seed) if shuffle else None)
