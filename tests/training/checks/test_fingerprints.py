"""Is one bit that differs on one replica seen, and named?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import worlds
from two_workers import Apart

import tfdist
from tfdist.training.checks import fingerprints

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "dtype", ["float16", "bfloat16", "float32", "float64", "complex64", "int8", "uint16", "int64",
              "bool"],
)
def test_any_changed_element_changes_the_number(dtype):
    values = np.zeros((3, 5)) if dtype == "bool" else np.arange(15).reshape(3, 5)
    value = tf.cast(tf.constant(values), dtype)
    number = int(fingerprints.number_of(value))
    assert int(fingerprints.number_of(tf.identity(value))) == number
    for index in ((0, 0), (1, 2), (2, 4)):
        other = values.copy()
        other[index] += 1
        assert int(fingerprints.number_of(tf.cast(tf.constant(other), dtype))) != number


@pytest.mark.parametrize("count", [2, 3])  # in pairs, and one by one
def test_each_single_bit_counts(count):
    value = np.float32(0.1)
    number = int(fingerprints.number_of(tf.constant([value] * count)))
    for bit in range(32):
        flipped = (value.view(np.uint32) ^ np.uint32(1 << bit)).view(np.float32)
        for place in range(count):
            other = np.full(count, value)
            other[place] = flipped
            assert int(fingerprints.number_of(tf.constant(other))) != number


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "int8", "uint16", "int32"])
def test_elements_that_are_taken_together_count_each(dtype):
    values = np.arange(16).reshape(2, 8)
    number = int(fingerprints.number_of(tf.cast(tf.constant(values), dtype)))
    for index in np.ndindex(values.shape):
        other = values.copy()
        other[index] += 1
        assert int(fingerprints.number_of(tf.cast(tf.constant(other), dtype))) != number


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ([[1, 2], [1, 2]], ""),
        ([[1, 2], [1, 3]], "'b' differs (1 of 2 variables does): replicas [0] hold one value, [1]"),
        ([[5, 2], [1, 3], [1, 3]], "'a' differs (2 of 2 variables do): replicas [1, 2] hold one"),
        ([[1], [2], [3]], "replicas [0] hold one value, [1] another, [2] another"),
    ],
)
def test_difference_is_told(numbers, text):
    found = fingerprints.difference(["a", "b"], np.array(numbers))
    assert text in found
    assert bool(found) == bool(text)


class Spoil(keras.callbacks.Callback):
    """Changes the last bit of one number on one replica, after an epoch."""

    def __init__(self, epoch, replica=1):
        super().__init__()
        self._epoch, self._replica = epoch, replica

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self._epoch:
            bias = self.model.layers[-1].bias.value
            part = self.model.distribute_strategy.experimental_local_results(bias)[self._replica]
            part.assign(np.nextafter(part.numpy(), 9))


def _fit(*callbacks, device="2xcpu", eager=True, **kwargs):
    keras.utils.set_random_seed(2)
    with tfdist.get_strategy(device).scope():
        layers = [keras.layers.Dense(3), keras.layers.BatchNormalization(synchronized=True),
                  keras.layers.Dropout(0.3), keras.layers.Dense(1, name="last")]
        model = keras.Sequential([keras.Input((2,)), *layers])
        model.compile("adam", "mse", metrics=["mae"], run_eagerly=eager)
    x = np.random.default_rng(0).normal(size=(20, 2))
    tfdist.fit(model, x, x[:, :1], batch_size=4, epochs=3, verbose=0, callbacks=list(callbacks),
               **kwargs)
    return model.get_weights()


def test_replica_that_parts_is_found_at_the_next_comparison():
    text = r"^After step 8 the replicas no longer hold the same weights: 'model/.*last/bias' diff"
    with pytest.raises(RuntimeError, match=text):
        _fit(Spoil(epoch=1), fingerprint_every=4, eager=False)


def test_comparing_changes_nothing_and_finds_nothing():
    expected = _fit()
    for a, b in zip(_fit(fingerprint_every=3), expected, strict=True):
        np.testing.assert_array_equal(a, b)
    _fit(device="cpu", fingerprint_every=3)  # nothing to compare


@pytest.mark.parametrize("every", [0, -3, 1.5, "often", True])
def test_interval_that_cannot_be(every):
    with pytest.raises(ValueError, match="fingerprint_every=.* must be a whole number of steps"):
        _fit(fingerprint_every=every)


@pytest.fixture
def model() -> keras.Model:
    with worlds.local_strategy(2).scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
        model.optimizer.build(model.trainable_variables)
    return model


def test_the_variable_that_differs_is_named(model):
    strategy = worlds.local_strategy(2)
    assert fingerprints.Comparison(model, Apart(strategy)).differing() == []
    [found] = fingerprints.Comparison(model, Apart(strategy, index=1)).differing()
    assert found.variable is model.trainable_variables[1]


def test_variables_are_traced_once_until_there_are_others(model, monkeypatch):
    seen = []
    number_of = fingerprints.number_of
    counting = lambda value: seen.append(0) or number_of(value)  # noqa: E731
    monkeypatch.setattr(fingerprints, "number_of", counting)
    strategy = worlds.local_strategy(2)
    comparison = fingerprints.Comparison(model, Apart(strategy))
    comparison.differing()
    first = len(seen)
    assert first >= len(model.variables) + len(model.optimizer.variables)
    model.trainable_variables[0].assign(np.ones([3, 2]))
    comparison.differing()
    assert len(seen) == first
    with strategy.scope():
        model.compile(keras.optimizers.Adam(), "mse")
        model.optimizer.build(model.trainable_variables)
    comparison.differing()
    assert len(seen) > first
