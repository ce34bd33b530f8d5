"""Do loops leave out the passes over a graph that change nothing, and nothing else?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.compat import graph_passes
from tfdist.compat.keras_internals import module

_CONTEXT = module("tensorflow.python.eager.context")


def _options() -> Any:
    return _CONTEXT.context().function_call_options


def _passes() -> Any:
    """Returns what a function that is called now is rewritten by."""
    config = tf.compat.v1.ConfigProto.FromString(_options().config_proto_serialized)
    return config.graph_options.rewrite_options


def test_two_passes_are_left_out_of_a_loop_alone():
    before = _options()
    usual = _passes()
    assert usual.memory_optimization != usual.NO_MEM_OPT
    assert not usual.disable_tfg_optimizer
    loop = graph_passes.without_idle(_passes)
    found = loop()
    assert found.memory_optimization == found.NO_MEM_OPT
    assert found.disable_tfg_optimizer
    found.memory_optimization = usual.memory_optimization
    found.disable_tfg_optimizer = False
    assert found == usual
    assert _options() is before


def test_the_same_options_each_time():
    # TensorFlow rewrites a graph anew for each other value of them.
    loop = graph_passes.without_idle(_options)
    assert loop() is loop()


def test_an_error_leaves_the_options_as_they_were():
    def fails() -> None:
        raise KeyError("in the loop")

    before = _options()
    with pytest.raises(KeyError, match="in the loop"):
        graph_passes.without_idle(fails)()
    assert _options() is before


def test_what_the_user_has_set_holds():
    loop = graph_passes.without_idle(_passes)
    loop()
    options = tf.config.optimizer
    kept = options.get_experimental_options().get("constant_folding", True)
    options.set_experimental_options({"constant_folding": False})
    try:
        found = loop()
    finally:
        options.set_experimental_options({"constant_folding": kept})
    assert found.constant_folding == found.OFF
    assert found.disable_tfg_optimizer


def test_training_leaves_them_out():
    found: list[bool] = []

    def loss(y: Any, y_pred: Any) -> Any:
        # While the loop is traced, at last. Several replicas are traced in threads of their own.
        found.append(_passes().disable_tfg_optimizer)
        return keras.losses.mean_squared_error(y, y_pred)

    with tfdist.get_strategy("cpu").scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", loss)
    before = _options()
    tfdist.fit(model, np.ones((4, 3)), np.ones((4, 1)), batch_size=4, check=False, verbose=0)
    assert found[-1]
    assert _options() is before
