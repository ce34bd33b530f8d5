"""Do the methods that take one batch give what Keras's own give on one device?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.first_step import found
from tfdist.training import on_batch

_RNG = np.random.default_rng(0)
_X, _Y = _RNG.normal(size=(7, 3)), _RNG.integers(3, size=7)
_SIZES = (7, 4, 1)  # uneven, even, and one that leaves a replica empty


def _model() -> keras.Model:
    keras.utils.set_random_seed(1)
    policy = "float64"
    return keras.Sequential([
        keras.layers.Dense(4, activation="tanh", dtype=policy),
        keras.layers.Dense(3, activation="softmax", dtype=policy),
    ])


def _results(model: keras.Model, methods: Any) -> list[Any]:
    found: list[Any] = []
    for size in _SIZES:
        x, y = _X[:size], _Y[:size]
        found += [methods.train_on_batch(model, x, y), methods.predict_on_batch(model, x)]
    weights = np.arange(1.0, 8.0)
    found.append(methods.train_on_batch(model, _X, _Y, weights))
    found.append(methods.train_on_batch(model, _X, _Y, class_weight={1: 2.0, 2: 0.5}))
    found += methods.test_on_batch(model, _X, _Y, return_dict=True).values()
    return found + model.get_weights()


def test_results_are_those_of_one_device():
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    one = _model()
    one.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    with strategy.scope():
        two = _model()
        two.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    expected, found = _results(one, keras.Model), _results(two, tfdist)
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-6)
    assert len(found) > 10


def test_data_is_looked_at_for_a_check_alone(monkeypatch):
    looked: list[Any] = []
    kept = found.data_of

    def data_of(spec: Any) -> str:
        looked.append(spec)
        return kept(spec)

    monkeypatch.setattr(found, "data_of", data_of)
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = _model()
    tfdist.predict_on_batch(model, _X, check=False)
    assert not looked
    tfdist.predict_on_batch(model, _X)
    assert looked


def test_two_kinds_of_weights_are_refused():
    with pytest.raises(ValueError, match="both given.*Give one"):
        on_batch.with_class_weight(_Y, np.ones(7), {0: 1.0})


def test_an_empty_batch_is_refused():
    strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    with pytest.raises(ValueError, match="holds no examples"):
        tfdist.predict_on_batch(model, _X[:0])
