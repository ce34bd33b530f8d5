"""How does a model train, test or predict on one batch, as Keras's `train_on_batch` does?

The batch is the global one, the same on every worker. It is split over the replicas here, since no
dataset brings it, and the step is the one that `fit`, `evaluate` or `predict` would run.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.share import bounds, is_tpu
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.data import rows
from tfdist.loop.outputs import as_array
from tfdist.loop.programs import Programs
from tfdist.training import building


def run(model: Any, programs: Programs, workers: Workers, phase: str, data: Any) -> Any:
    """Runs one step on one global batch, and builds the model before the first one.

    Args:
        model: The model.
        programs: Of the model.
        workers: Of its strategy; all of them call this together.
        phase: "train", "test" or "predict".
        data: Structure of arrays or tensors: the global batch.

    Returns:
        In phase "predict" the outputs as NumPy arrays, one row per example; else None.

    Raises:
        ValueError: The batch is empty, or does not fit a TPU.
    """
    data = keras.tree.map_structure(_tensor, data, none_is_leaf=False)
    size = int(rows.count(data))
    share = workers.share
    if size == 0:
        raise ValueError("The batch holds no examples. Give at least one.")
    if is_tpu(workers.strategy) and size % share.num_replicas:
        raise ValueError(
            f"The batch has {size} examples, which {share.num_replicas} TPU replicas cannot hold "
            "in equal parts, as they must. Give a multiple, or train with tfdist.fit, which pads."
        )
    parts: tuple[Any, ...] = (data,)
    if share.num_replicas > 1:
        held = [bounds(size, replica, share.num_replicas) for replica in share.replicas]
        parts = tuple(rows.cut(data, *rows.never_empty(*own, size)) for own in held)
    spec = rows.open_spec(rows.spec_of(data))

    def build() -> None:
        building.build(model, workers.strategy, spec, method=f"{phase}_step")

    outputs = programs.on_batch(phase, spec, build)(tf.constant(size), parts)
    return keras.tree.map_structure(as_array, outputs) if phase == "predict" else None


def _tensor(leaf: Any) -> Any:
    is_tensor = isinstance(leaf, (tf.RaggedTensor, tf.SparseTensor))
    return leaf if is_tensor else tf.convert_to_tensor(leaf)


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
