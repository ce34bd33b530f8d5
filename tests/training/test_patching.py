"""Does a program of plain Keras train as on one device, on replicas that it knows nothing of?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.compat import trainer_methods

_RNG = np.random.default_rng(0)
_X, _Y = _RNG.normal(size=(11, 3)), _RNG.integers(3, size=11)
_OWN = {name: getattr(keras.Model, name) for name in trainer_methods.METHODS}


@pytest.fixture
def patched():
    strategy = tfdist.patch_keras("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    yield strategy
    tfdist.unpatch_keras()
    assert {name: getattr(keras.Model, name) for name in _OWN} == _OWN
    assert not tf.distribute.has_strategy()


def _program() -> list[Any]:
    """Plain Keras, with a callback that evaluates."""
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.layers.Dense(4), keras.layers.Dropout(0.5)])
    model.add(keras.layers.Dense(3, activation="softmax"))
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    seen: list[Any] = []
    looks = keras.callbacks.LambdaCallback(
        on_epoch_end=lambda epoch, logs: seen.append(model.evaluate(_X, _Y, verbose=0))
    )
    history = model.fit(_X, _Y, 4, 2, 0, [looks], shuffle=False, validation_data=(_X, _Y))
    seen += history.history.values()
    seen += [model.train_on_batch(_X[:5], _Y[:5]), model.predict(_X, verbose=0)]
    return seen + model.get_weights()


def test_a_program_is_distributed(patched):
    found = _program()
    assert tfdist.patch_keras("2xcpu") is patched  # as when a cell of a notebook runs again
    tfdist.unpatch_keras()
    expected = _program()
    for one, two in zip(expected, found, strict=True):
        np.testing.assert_allclose(two, one, atol=1e-5)
    tfdist.unpatch_keras()  # again


def test_a_strategy_of_its_own_is_kept(patched):
    own = tf.distribute.OneDeviceStrategy("/cpu:0")
    with own.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    model.fit(_X, _Y, verbose=0)
    assert model.distribute_strategy is own
    assert np.isfinite(model.get_weights()[0]).all()
    assert tfdist.patch_keras("2xcpu") is tf.distribute.get_strategy() is patched


def test_a_model_from_before_may_predict_and_not_train():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    tfdist.patch_keras("2xcpu")
    try:
        assert model.predict(_X, verbose=0).shape == (11, 1)
        with pytest.raises(ValueError, match="made outside any strategy's scope"):
            model.fit(_X, _Y, verbose=0)
    finally:
        tfdist.unpatch_keras()


def test_it_works_in_a_scope_of_no_strategy_only():
    with tfdist.get_strategy("2xcpu").scope():
        with pytest.raises(RuntimeError, match="in scope already"):
            tfdist.patch_keras("2xcpu")
    assert keras.Model.fit is _OWN["fit"]
