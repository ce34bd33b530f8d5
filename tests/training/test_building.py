"""Are all variables there before the first step, made by what makes them on one device?"""

from __future__ import annotations

import contextlib
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.step import variables

layers = keras.layers


class WithoutCall(keras.Model):
    """Does all in its `train_step`, as examples of generative models do; its parts are unbuilt."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = layers.Dense(2, activation="tanh"), layers.Dense(3)
        self.error = keras.metrics.Mean("error")

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(tf.square(self.decoder(self.encoder(data)) - data))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(error, variables), variables)
        self.error.update_state(error)
        return {"error": self.error.result()}


class OfPairs(WithoutCall):
    """Takes elements of a structure of its own."""

    def train_step(self, data: Any) -> dict[str, Any]:
        (first, other), last = data
        return super().train_step(first["x"] + other + last)


class Bag(keras.Model):
    """Takes ragged rows."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = layers.Embedding(5, 2), layers.Dense(1)

    def call(self, rows: Any) -> Any:
        embedded = tf.RaggedTensor.from_row_splits(self.words(rows.values), rows.row_splits)
        return self.out(tf.reduce_sum(embedded, axis=1))


def _trained(make: Any, data: Any, strategy: Any = None, loss: Any = None) -> list[np.ndarray]:
    """Trains a model by stock Keras, or on a strategy; returns its weights."""
    keras.utils.set_random_seed(4)
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = make()
        model.compile(keras.optimizers.SGD(0.1), loss)
    (tfdist.fit if strategy else keras.Model.fit)(model, data, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


_X = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")


def _words() -> Any:
    rows = tf.ragged.constant([[1], [2, 3], [], [4, 4, 4], [0]], dtype=tf.int64)
    return rows, np.arange(5.0)[:, np.newaxis]


@pytest.mark.parametrize(
    ("make", "data", "loss"),
    [
        pytest.param(WithoutCall, lambda: _X, None, id="no call"),
        pytest.param(OfPairs, lambda: (({"x": _X}, _X), 2 * _X), None, id="a structure of its own"),
        pytest.param(Bag, _words, "mse", id="ragged rows"),
    ],
)
def test_what_one_device_makes_is_made(make, data, loss):
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    batches = tf.data.Dataset.from_tensor_slices(data()).batch(4)
    expected, found = _trained(make, batches, loss=loss), _trained(make, batches, strategy, loss)
    assert expected
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-6)


def test_predict_comes_first():
    strategy = tfdist.get_strategy("2xcpu")
    with strategy.scope():
        model = keras.Sequential([layers.Dense(2)])
    found = tfdist.predict(model, _X, batch_size=4, verbose=0)
    np.testing.assert_allclose(found, _X @ model.get_weights()[0], atol=1e-6)
    assert len(strategy.experimental_local_results(model.layers[0].kernel.value)) == 2


def test_what_is_built_is_not_traced_on_trial():
    calls = []

    class Counted(WithoutCall):
        def train_step(self, data: Any) -> dict[str, Any]:
            calls.append(1)
            return super().train_step(data)

    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        model = Counted()
        model.encoder.build((None, 3))
        model.decoder.build((None, 2))
        model.compile("sgd")
    tfdist.fit(model, tf.data.Dataset.from_tensors(_X), verbose=0)
    assert len(calls) == 1


class OfTwoOptimizers(WithoutCall):
    """Has an optimizer for each part, and a variable of TensorFlow's own."""

    def __init__(self) -> None:
        super().__init__()
        self.of_decoder = keras.optimizers.Adam(0.1)
        self.steps = tf.Variable(0, trainable=False, dtype=tf.int64)

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape(persistent=True) as tape:
            error = tf.reduce_mean(tf.square(self.decoder(self.encoder(data)) - data))
        for optimizer, part in ((self.optimizer, self.encoder), (self.of_decoder, self.decoder)):
            variables = part.trainable_variables
            optimizer.apply(tape.gradient(error, variables), variables)
        self.error.update_state(error)
        return {"error": self.error.result()}


def test_all_optimizers_are_resumed(tmp_path):
    def trained(epochs: int, folder: Any = None) -> list[np.ndarray]:
        keras.utils.set_random_seed(4)
        with tfdist.get_strategy("2xcpu").scope():
            model = OfTwoOptimizers()
            model.compile(keras.optimizers.Adam(0.1))
        tfdist.fit(model, _X, batch_size=4, epochs=epochs, verbose=0, checkpoint_dir=folder)
        names = [entry.name for entry in variables.entries_of(model)]
        assert any("of_decoder" in name and "velocity" in name for name in names)
        assert sum(name.startswith("TensorFlow/") for name in names) == 1
        return model.get_weights()

    expected = trained(2)
    trained(1, tmp_path)
    for one, two in zip(expected, trained(2, tmp_path), strict=True):
        np.testing.assert_array_equal(two, one)
