"""Do the functions show every argument, and have one trainer a model behind them?"""

from __future__ import annotations

import inspect

import keras
import pytest

import tfdist
from tfdist.training import fitting

_METHODS = ("fit", "evaluate", "predict")


@pytest.mark.parametrize("name", _METHODS)
def test_the_signature_is_keras_own_and_then_ours(name):
    given = list(inspect.signature(getattr(tfdist, name)).parameters)
    theirs = list(inspect.signature(getattr(keras.Model, name)).parameters)[1:]
    theirs = [argument for argument in theirs if argument != "kwargs"]
    assert given[0] == "model"
    assert given[1 : 1 + len(theirs)] == theirs


@pytest.mark.parametrize("name", _METHODS)
def test_every_argument_is_documented(name):
    function = getattr(tfdist, name)
    for argument in inspect.signature(function).parameters:
        assert f"\n            {argument}: " in function.__doc__, argument
    assert (function.__name__, function.__module__) == (name, "tfdist.training.fitting")


def test_one_trainer_a_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    assert fitting.trainer_of(model) is fitting.trainer_of(model)


def test_a_model_of_another_keras_is_named():
    legacy = type("Model", (), {"__module__": "tf_keras.src.engine.training"})
    with pytest.raises(ValueError, match="one of tf_keras .Keras 2.*Unset it"):
        tfdist.fit(legacy())
    with pytest.raises(ValueError, match="A keras.Model is needed"):
        tfdist.fit(object())


def test_a_distribution_that_keras_ignores_is_refused():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    distribution = keras.distribution.DataParallel(devices=["cpu:0"])
    keras.distribution.set_distribution(distribution)
    try:
        with pytest.raises(ValueError, match=r"<DataParallel.*set_distribution\(None\)"):
            tfdist.fit(model)
    finally:
        keras.distribution.set_distribution(None)
