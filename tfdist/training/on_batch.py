"""How does a model train, test or predict on one batch, as Keras's `train_on_batch` does?

The batch is the global one, the same on every worker. It is split over the replicas here, since no
dataset brings it, and the step is the one that `fit`, `evaluate` or `predict` would run.
"""

from __future__ import annotations

import zlib
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.share import bounds, is_tpu
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.data import rows
from tfdist.loop.programs import Programs


def as_tensors(data: Any) -> Any:
    """Returns a batch with its arrays as tensors; None stays None."""
    return keras.tree.map_structure(
        lambda leaf: leaf if isinstance(leaf, tf.SparseTensor) else _tensor(leaf), data,
        none_is_leaf=False,
    )


def _tensor(leaf: Any) -> Any:
    return leaf if isinstance(leaf, tf.RaggedTensor) else tf.convert_to_tensor(leaf)


def spec_of(data: Any) -> Any:
    """Returns the specs of a batch of tensors, with an open number of rows."""
    spec = keras.tree.map_structure(tf.type_spec_from_value, data, none_is_leaf=False)
    return rows.open_spec(spec)


def run(programs: Programs, workers: Workers, phase: str, data: Any) -> Any:
    """Runs one step on one global batch.

    Args:
        programs: Of the model.
        workers: Of its strategy; all of them call this together.
        phase: "train", "test" or "predict".
        data: Structure of tensors: the global batch.

    Returns:
        In phase "predict" the outputs as NumPy arrays, one row per example; else None.

    Raises:
        ValueError: The batch is empty, not the same on all workers, or does not fit a TPU.
    """
    size = int(rows.count(data))
    share = workers.share
    if size == 0:
        raise ValueError("The batch holds no examples. Give at least one.")
    if is_tpu(workers.strategy) and size % share.num_replicas:
        raise ValueError(
            f"The batch has {size} examples, which {share.num_replicas} TPU replicas cannot hold "
            "in equal parts, as they must. Give a multiple, or train with tfdist.fit, which pads."
        )
    if workers.has_others:
        workers.require_same({"The batch": (size, _checksum(data))})
    parts: tuple[Any, ...] = (data,)
    if share.num_replicas > 1:
        parts = tuple(_rows_of(replica, data, size, share.num_replicas)
                      for replica in share.replicas)
    outputs = programs.on_batch(phase, spec_of(data))(tf.constant(size), parts)
    return keras.tree.map_structure(_as_array, outputs) if phase == "predict" else None


def _rows_of(replica: int, data: Any, size: int, num_replicas: int) -> Any:
    start, stop = bounds(size, replica, num_replicas)
    start = min(start, size - 1)  # an empty replica gets a row that does not count
    return rows.cut(data, start, max(stop, start + 1))


def _checksum(data: Any) -> int:
    total = 0
    for leaf in keras.tree.flatten(data):
        if isinstance(leaf, tf.Tensor):
            total = zlib.crc32(np.ascontiguousarray(leaf.numpy()).tobytes(), total)
    return total


def _as_array(value: Any) -> Any:
    return value if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)) else np.asarray(value)


def with_class_weight(y: Any, sample_weight: Any, class_weight: Any) -> Any:
    """Returns the sample weights that `class_weight` stands for, as in Keras's `train_on_batch`.

    Raises:
        ValueError: Both kinds of weights were given.
    """
    if class_weight is None:
        return sample_weight
    if sample_weight is not None:
        raise ValueError(
            "sample_weight and class_weight were both given for one batch. Give one of them."
        )
    return keras_internals.sample_weights_of(y, class_weight)
