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
from tfdist.data.source import Source
from tfdist.first_step import found
from tfdist.first_step.checking import first_step_of
from tfdist.loop.outputs import as_array
from tfdist.loop.programs import Programs
from tfdist.step import update
from tfdist.training import building


def run(
    model: Any, programs: Programs, workers: Workers, phase: str, data: Any, *,
    check: str | bool = False,
) -> Any:
    """Runs one step on one global batch, and builds the model before the first one.

    Args:
        model: The model.
        programs: Of the model.
        workers: Of its strategy; all of them call this together.
        phase: "train", "test" or "predict".
        data: Structure of arrays or tensors: the global batch.
        check: As in `Options`, for the first batch after `compile`.

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
    spec, step = rows.open_spec(rows.spec_of(data)), f"{phase}_step"

    def build() -> None:
        building.build(model, workers.strategy, spec, method=step)

    if check and not found.is_settled(model, step, check, data=found.data_of(spec)):
        build()
        _check(model, programs, workers, step, (tf.constant(size), parts), check)
    is_whole = check == "whole" and found.is_whole(model, step)
    run_step = programs.on_batch(phase, spec, build, is_whole=is_whole)
    outputs = run_step(tf.constant(size), (data,) if is_whole else parts)
    return keras.tree.map_structure(as_array, outputs) if phase == "predict" else None


def _check(
    model: Any, programs: Programs, workers: Workers, step: str, element: Any, check: str | bool
) -> None:
    """Checks a step on its first batch, and notes if there is nothing that could be found."""
    spec = rows.spec_of(element[1][0])
    if not keras_internals.overrides(model, step) and not update.asks_for_sizes(model):
        spec = rows.open_spec(spec)
    source = Source(None, None, spec, lambda first_pass, start: tf.data.Dataset.range(0))
    first = first_step_of(model, programs, source, workers, check=check, step=step)
    if first is None:
        kind = found.ALIKE if check == "whole" else found.NOTHING
        found.note(model, workers.strategy, step, kind, data=found.data_of(spec))
    else:
        first.check(element, spec)


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
