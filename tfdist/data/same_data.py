"""Do all workers read the same data, in the same order?

Each worker takes its rows of every global batch. If two workers read different data, or shuffle it
differently, some examples are lost and others used twice, and nothing shows it. So everything that
can be known is compared before the first step: sizes, specs, contents of arrays, seeds of a
dataset. The rest (a generator's order) is compared during training: a sample of each batch is added
up, and the sums are compared whenever the workers exchange numbers anyway.

`of_arrays` and `of_dataset` return facts by name; `require` compares them.
"""

from __future__ import annotations

import logging
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.agreement import require_alike
from tfdist.communication.workers import Workers
from tfdist.compat import tf_datasets, tf_internals
from tfdist.compat.untraced import plain_variable

_LOG = logging.getLogger("tfdist")
_WHOLE_BYTES = 2**26  # arrays up to this size are compared in full, larger ones by a sample
_SAMPLED_ROWS = 4096
_ENTRIES_OF_A_ROW = 64  # of a batch, compared while training
_CURE = (
    "Give every worker the same data, with the same seeds (keras.utils.set_random_seed, or "
    "seed=... where it shuffles), or each only its own share with already_sharded=True."
)


def of_arrays(arrays: Any) -> dict[str, Any]:
    """Returns the facts that must be the same for a structure of arrays, by name.

    >>> list(of_arrays((np.zeros([2, 3]), None)))
    ['arrays', 'contents']
    """
    leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
    dtypes = [getattr(leaf, "dtype", "?") for leaf in leaves]
    names = [one.name if isinstance(one, tf.DType) else f"{one}" for one in dtypes]
    specs = [f"{name}{tuple(leaf.shape)}" for name, leaf in zip(names, leaves, strict=True)]
    contents = 0
    for leaf in leaves:
        for part in _dense_parts(leaf):
            contents = zlib.crc32(_some_bytes(part), contents)
    return {"arrays": ", ".join(specs), "contents": f"{contents:08x}"}


def of_dataset(dataset: tf.data.Dataset) -> dict[str, Any]:
    """Returns the facts that must be the same for a dataset, by name.

    Raises:
        ValueError: Something in it draws random numbers without a seed.
    """
    seeds = list(random_parts(dataset))
    for name, seed in seeds:
        if not any(seed):
            raise ValueError(
                f"The dataset draws random numbers without a seed (in {name}), so that each worker "
                f"would read it in another order. {_CURE}"
            )
    options = dataset.options()
    if options.experimental_distribute.auto_shard_policy == _FILE:
        _LOG.info(
            "auto_shard_policy=FILE: every worker reads all files and takes its rows of each "
            "global batch, so that the batches are those of one device. Where each worker is to "
            "read its own files alone, give it those with already_sharded=True."
        )
    return {
        "number of batches": int(dataset.cardinality()),
        "element_spec": repr(dataset.element_spec),
        "deterministic": dataset.options().deterministic is not False,
        "seeds": repr([seed for _, seed in seeds]),
    }


def of_batch(batch: Any) -> dict[str, Any]:
    """Returns the facts that must be the same for one batch, a structure of arrays or tensors."""

    def tensor(leaf: Any) -> Any:
        has_shape = hasattr(leaf, "shape") and hasattr(leaf, "dtype")
        return leaf if has_shape or leaf is None else np.asarray(leaf)

    return of_arrays(keras.tree.map_structure(tensor, batch))


def require(facts: Mapping[str, Any], workers: Workers) -> None:
    """Compares facts of data over the workers; every worker has to call it.

    Args:
        facts: This worker's facts, by name.
        workers: All workers.

    Raises:
        ValueError: They differ; the message names the fact, the workers and their values.
    """
    require_alike(facts, workers, what="were given different data", cure=_CURE)


def refuse_other_batches(sums: np.ndarray) -> None:
    """Raises a RuntimeError where the workers' sums of samples differ.

    Args:
        sums: One sum per worker, in rank order.
    """
    if len(set(sums.tolist())) > 1:
        raise RuntimeError(
            "The workers have read different batches since the last comparison (sums of a sample: "
            f"{dict(enumerate(sums.tolist()))} by worker), so that examples were lost and others "
            f"used twice. {_CURE}"
        )


def in_one_order(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Makes a dataset deterministic if its options allow it to reorder elements."""
    if dataset.options().deterministic is not False:
        return dataset
    options = tf.data.Options()
    options.deterministic = True
    return dataset.with_options(options)


def sample(data: Any) -> tf.Tensor:
    """Returns an int64 number that differs between batches, at a few microseconds per row."""
    total = tf.zeros([], tf.int64)
    for leaf in keras.tree.flatten(data):
        for part in _tensors(leaf):
            total = total * 31 + _sample_one(part)
    return total


class Witness:
    """Adds up the samples of the batches that a loop has used.

    Args:
        is_needed: Whether there are other workers to compare with.
    """

    def __init__(self, *, is_needed: bool) -> None:
        self._sum: Any = None
        if is_needed:
            self._sum = plain_variable(tf.int64)

    def note(self, batch_sample: tf.Tensor) -> None:
        """Adds a batch's `sample`, from inside a traced loop."""
        self._sum.assign(self._sum * 31 + batch_sample)

    def value(self) -> int:
        """Returns the sum so far; 0 if there are no other workers."""
        return 0 if self._sum is None else int(self._sum.numpy())


_FILE = tf.data.experimental.AutoShardPolicy.FILE


def _dense_parts(leaf: Any) -> list[np.ndarray]:
    if isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor)):
        return [part.numpy() for part in _tensors(leaf)]
    if hasattr(leaf, "tocoo"):  # of SciPy
        coordinates = leaf.tocoo()
        return [coordinates.data, coordinates.row, coordinates.col]
    return [np.asarray(leaf)]


def _some_bytes(array: np.ndarray) -> bytes:
    if array.nbytes > _WHOLE_BYTES:
        array = array[:: max(len(array) // _SAMPLED_ROWS, 1)]
    if array.dtype == object:
        return repr(array.tolist()).encode()
    return np.ascontiguousarray(array).tobytes()


def _tensors(leaf: Any) -> list[tf.Tensor]:
    if leaf is None:
        return []
    if isinstance(leaf, tf.RaggedTensor):
        return [leaf.flat_values, *leaf.nested_row_splits]
    if isinstance(leaf, tf.SparseTensor):
        return [leaf.values, leaf.indices]
    return [leaf]


def _sample_one(value: tf.Tensor) -> tf.Tensor:
    if value.shape.rank != 1:
        flat = tf.reshape(value, [tf.shape(value)[0], -1])
        stride = tf.maximum(tf.shape(flat)[1] // _ENTRIES_OF_A_ROW, 1)
        value = tf.reshape(flat[:, ::stride], [-1])
    if value.dtype == tf.string:
        bits = tf.strings.to_hash_bucket_fast(value, 2**62)
    elif value.dtype.is_floating:
        bits = tf.cast(tf.bitcast(tf.cast(value, tf.float64), tf.int64), tf.int64)
    elif value.dtype.is_complex:
        bits = tf.bitcast(tf.math.real(tf.cast(value, tf.complex128)), tf.int64)
    else:
        bits = tf.cast(value, tf.int64)
    # An odd factor per position: the same rows in another order give another number.
    return tf.reduce_sum(bits * (2 * tf.range(tf.size(bits, tf.int64)) + 1))


def random_parts(dataset: tf.data.Dataset) -> Iterator[tuple[str, tuple[int, int]]]:
    """Yields the name and the two seeds of everything in a dataset that draws random numbers."""
    for part in tf_datasets.parts_of(dataset):
        if (seeds := tf_datasets.seeds_of(part)) is not None:
            yield type(part).__name__.strip("_"), seeds
        for graph in tf_datasets.graphs_in(part):
            yield from _seeds_of_graph(graph)


def _seeds_of_graph(graph: Any) -> Iterator[tuple[str, tuple[int, int]]]:
    for nodes in tf_internals.bodies_of(graph):
        constants = {node.name: node for node in nodes if node.op == "Const"}
        for node in nodes:
            if "seed" in node.attr and "seed2" in node.attr:
                yield node.op, (node.attr["seed"].i, node.attr["seed2"].i)
            elif node.op.startswith(("ShuffleDataset", "ShuffleAndRepeatDataset")):
                names = [name.split(":")[0] for name in node.input[2:4]]
                # TensorFlow wraps a given seed in a select that keeps the second seed from being 0.
                found = [constants.get(name) or constants.get(f"{name}/Const") for name in names]
                if None not in found:
                    yield node.op, (_scalar(found[0]), _scalar(found[1]))


def _scalar(constant: Any) -> int:
    return int(tf.make_ndarray(constant.attr["value"].tensor))
