"""Do masks and logits follow the rows of a tensor?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.compat import tensor_notes

_LOGITS = np.array([[900.0, -900.0], [0.5, 0.25], [-3.0, 4.0]])
_OUTPUTS = {
    "keras softmax": lambda logits: keras.activations.softmax(logits),
    "tensorflow softmax": lambda logits: tf.nn.softmax(logits),
    "keras sigmoid": lambda logits: keras.activations.sigmoid(logits),
    "tensorflow sigmoid": lambda logits: tf.math.sigmoid(logits),
}


def _first_two(value: Any) -> Any:
    return value[:2]


@pytest.mark.parametrize("name", _OUTPUTS)
def test_loss_finds_the_same_logits(name: str) -> None:
    loss = keras.ops.categorical_crossentropy
    if "sigmoid" in name:
        loss = keras.ops.binary_crossentropy
    targets = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])

    @tf.function
    def both(logits: Any) -> Any:
        whole = _OUTPUTS[name](logits)
        cut = tensor_notes.with_notes(_first_two, whole)
        return loss(targets, whole)[:2], loss(targets[:2], cut), loss(targets[:2], whole[:2])

    expected, found, without = both(tf.constant(_LOGITS))
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert np.max(np.abs(without - expected)) > 1  # what is lost with the notes


def test_mask_follows() -> None:
    value = tf.constant(_LOGITS)
    value._keras_mask = tf.constant([True, False, True])
    cut = tensor_notes.with_notes(_first_two, value)
    assert cut._keras_mask.numpy().tolist() == [True, False]
    assert not hasattr(cut, "_keras_logits")


def test_softmax_over_the_batch_itself_is_not_taken_again() -> None:
    """Over the rows that are left it would be another one."""

    @tf.function
    def both(logits: Any) -> Any:
        whole = tf.nn.softmax(logits)
        return whole[:2], tensor_notes.with_notes(_first_two, whole)

    expected, found = both(tf.constant([1.0, 2.0, 3.0]))
    np.testing.assert_array_equal(found, expected)
