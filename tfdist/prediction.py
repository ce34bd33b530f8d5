"""How do the outputs of all batches come back, in input order?"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist import keras_compat
from tfdist.feed import Feed


def predicted(
    model: keras.Model, feed: Feed, events: Any, predict_one: Callable[[Any], Any]
) -> Any:
    """Runs a model over one epoch of a feed, with the events of Keras's `predict`.

    Args:
        model: The model.
        feed: Its inputs.
        events: The callbacks.
        predict_one: Takes an iterator; returns the next batch's outputs, or None at its end.

    Returns:
        NumPy arrays (or ragged or sparse tensors) of the model's output structure, with the rows of
        all batches.

    Raises:
        ValueError: There was no batch.
    """
    size = model.steps_per_execution if model.compiled else 1
    model.stop_predicting = False
    events.on_predict_begin()
    planned, done, outputs = feed.begin_epoch(), 0, []
    while (planned is None or done < planned) and not model.stop_predicting:
        events.on_predict_batch_begin(done)
        wanted = size if planned is None else min(size, planned - done)
        batches = list(itertools.islice(iter(lambda: predict_one(feed.iterator), None), wanted))
        if not batches:
            break
        outputs.append(_joined(batches))
        events.on_predict_batch_end(done + size - 1, {"outputs": outputs[-1]})
        done += len(batches)
    has_ended = not model.stop_predicting and (planned is None or done < planned)
    feed.end_epoch(done, ended=has_ended)
    events.on_predict_end()
    if not outputs:
        raise ValueError("The data held no batch to predict on. Give at least one example.")
    return keras.tree.map_structure(_to_numpy, _joined(outputs))


def _joined(batches: list[Any]) -> Any:
    return keras.tree.map_structure(
        lambda *values: keras_compat.concat_batches(list(values)), *batches
    )


def _to_numpy(value: Any) -> Any:
    if isinstance(value, (tf.RaggedTensor, tf.SparseTensor)):
        return value
    return np.asarray(value)
