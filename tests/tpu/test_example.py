"""tests of tfdist/tpu/example.py"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.tpu.example import specs

layers = keras.layers


def _compiled(outputs: Any, loss: Any, inputs: Any) -> keras.Model:
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss)
    return model


def _facts(structure: Any) -> Any:
    return keras.tree.map_structure(
        lambda spec: f"{spec.dtype.name}{list(spec.shape)}", structure
    )


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        ("mse", "float32[6, 3]"),
        ("sparse_categorical_crossentropy", "int32[6]"),
        (keras.losses.SparseCategoricalCrossentropy(), "int32[6]"),
        (keras.losses.categorical_crossentropy, "float32[6, 3]"),
        (lambda y, p: p, "float32[6, 3]"),
    ],
)
def test_model_tells(loss: Any, target: str) -> None:
    x = keras.Input((4,))
    model = _compiled(layers.Dense(3)(x), loss, x)
    assert _facts(specs(model, rows=6)) == ("float32[6, 4]", target)


def test_model_with_names_tells() -> None:
    a, b = keras.Input((4,), name="a"), keras.Input((5,), name="b", dtype="int32")
    outputs = {"p": layers.Dense(3)(a), "q": layers.Embedding(9, 2)(b)}
    model = _compiled(outputs, {"p": "sparse_categorical_crossentropy", "q": "mse"}, [a, b])
    assert _facts(specs(model, rows=6)) == (
        ["float32[6, 4]", "int32[6, 5]"],
        {"p": "int32[6]", "q": "float32[6, 5, 2]"},
    )


@pytest.mark.parametrize(
    ("batch", "expected"),
    [
        (np.zeros((2, 4)), ("float32[6, 4]",)),
        ((np.zeros((2, 4)), np.zeros(2, np.int64)), ("float32[6, 4]", "int64[6]")),
        (
            {"a": tf.TensorSpec((None, 4)), "b": tf.TensorSpec((1, 2), tf.float64)},
            ({"a": "float32[6, 4]", "b": "float64[6, 2]"},),
        ),
    ],
)
def test_batch_tells(batch: Any, expected: Any) -> None:
    model = keras.Sequential([layers.Dense(3)])
    assert _facts(specs(model, rows=6, batch=batch)) == expected


def test_dataset_tells() -> None:
    model = keras.Sequential([layers.Dense(3)])
    batch = tf.data.Dataset.from_tensor_slices((np.zeros((3, 4)), [1, 2, 3])).batch(2)
    assert _facts(specs(model, rows=6, batch=batch)) == ("float64[6, 4]", "int32[6]")


def test_nobody_tells() -> None:
    model = keras.Sequential([layers.Dense(3)], name="silent")
    with pytest.raises(ValueError, match=r"'silent' does not say what it takes.*give batch="):
        specs(model, rows=6)
    with pytest.raises(ValueError, match=r"holds no rows"):
        specs(model, rows=6, batch=np.float32(1))
