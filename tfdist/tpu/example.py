"""What is in a batch?  Shapes and dtypes, from the user's own batch or from the model.

Synopsis:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(3)])
    >>> model.compile("sgd", "sparse_categorical_crossentropy")
    >>> x, y = specs(model, rows=16)
    >>> x.shape, x.dtype.name, y.shape, y.dtype.name
    (TensorShape([16, 8]), 'float32', TensorShape([16]), 'int32')
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf


def specs(model: keras.Model, *, rows: int, batch: Any = None) -> Any:
    """Returns the specs of a batch of `rows` rows.

    Args:
        model: A compiled model.
        rows: Rows of the batch.
        batch: A batch of any size, `x`, `(x, y)` or `(x, y, sample_weight)`, of arrays, tensors,
            specs or a dataset of them; by default it follows from the model's inputs, outputs and
            losses.

    Raises:
        ValueError: Neither the batch nor the model shows the shapes.
    """
    if isinstance(batch, tf.data.Dataset):
        batch = batch.element_spec
    if batch is None:
        batch = _of_model(model)
    return keras.tree.map_structure(lambda value: _spec(value, rows), _as_tuple(batch))


def _as_tuple(batch: Any) -> Any:
    return tuple(batch) if isinstance(batch, (tuple, list)) else (batch,)


def _spec(value: Any, rows: int) -> Any:
    if not hasattr(value, "shape") or not hasattr(value, "dtype"):
        value = np.asarray(value)
    shape = tf.TensorShape(value.shape)
    if shape.rank is None or shape.rank == 0:
        raise ValueError(
            f"batch has a part of shape {shape}, which holds no rows. Give arrays or specs whose"
            " first dimension counts the examples."
        )
    dtype = tf.as_dtype(value.dtype)
    # As Keras's own data adapters do with arrays.
    is_array = isinstance(value, np.ndarray) and dtype.is_floating
    dtype = tf.as_dtype(keras.config.floatx()) if is_array else dtype
    return tf.TensorSpec([rows, *shape[1:]], dtype)


def _of_model(model: keras.Model) -> Any:
    """Returns specs of one row by the model's own inputs, outputs and losses."""
    inputs = getattr(model, "inputs", None)
    if not inputs:
        raise ValueError(
            f"The model {model.name!r} does not say what it takes. Build it with keras.Input, or"
            " give batch=(x, y), a small batch of your data."
        )
    is_chain = isinstance(model, keras.Sequential)  # one of each, and no other way to ask
    x, y = (inputs[0], model.outputs[0]) if is_chain else (model.input, model.output)
    return keras.tree.map_structure(_one_row, x), _targets(model.loss, y)


def _targets(loss: Any, outputs: Any) -> Any:
    if isinstance(outputs, dict):
        by_name = loss if isinstance(loss, dict) else dict.fromkeys(outputs, loss)
        return {name: _targets(by_name.get(name), outputs[name]) for name in outputs}
    if isinstance(outputs, (list, tuple)):
        each = loss if isinstance(loss, (list, tuple)) else [loss] * len(outputs)
        return tuple(map(_targets, each, outputs))
    name = loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)
    row = _one_row(outputs)
    if "sparse" in name.lower():
        return tf.TensorSpec(row.shape[:-1], tf.int32)
    return tf.TensorSpec(row.shape, keras.config.floatx())


def _one_row(tensor: Any) -> tf.TensorSpec:
    return tf.TensorSpec([1, *tensor.shape[1:]], tensor.dtype)
