"""Is each function traced once a program, however often it is called?"""

from __future__ import annotations

import collections
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from support.models import OwnStep

import tfdist


class Counted(keras.layers.Layer):
    """Flattens rows, and counts how often it is traced. Its code is not Keras's own."""

    traces = 0

    def call(self, x: Any) -> Any:
        """Returns the rows, flat."""
        self.traces += 1
        return keras.ops.reshape(x, (-1, int(np.prod(x.shape[1:]))))


@pytest.fixture
def made(monkeypatch):
    """The names of functions that `tf.function` was asked for, with how often."""
    names, function = collections.Counter(), tf.function

    def counting(func: Callable[..., Any] | None = None, **options: Any) -> Any:
        if func is None:
            return lambda later: counting(later, **options)
        names[getattr(func, "__name__", type(func).__name__)] += 1
        return function(func, **options)

    monkeypatch.setattr(tf, "function", counting)
    return names


@pytest.mark.parametrize(
    ("kind", "first"),
    [
        (keras.Sequential, lambda: keras.layers.Rescaling(0.5)),
        (OwnStep, lambda: keras.layers.Embedding(9, 3)),
    ],
)
def test_nothing_is_traced_anew_by_another_call(made, kind, first):
    strategy, counted = tfdist.get_strategy("2xcpu"), Counted()
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = kind([keras.Input((4,), dtype="int32"), first(), counted, keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=["mae"])
    x, y = np.arange(24, dtype="int32").reshape(6, 4) % 9, np.ones((6, 1), "float32")

    def call() -> tuple[dict[str, int], int]:
        tfdist.fit(
            model, x, y, batch_size=4, epochs=3, validation_data=(x, y), verbose=0, check="warn",
            fingerprint_every=2,
        )
        tfdist.evaluate(model, x, y, batch_size=4, verbose=0)
        tfdist.predict(model, x, batch_size=4, verbose=0)
        tfdist.test_on_batch(model, x, y)
        if kind is not OwnStep:  # which takes no weights, that Keras gives it here
            tfdist.train_on_batch(model, x, y)
        return dict(made), counted.traces

    functions, traces = call()
    assert functions["read"] == 3  # logs of the check of a first step, of training, of testing
    assert traces > 0
    assert [call() for _ in range(2)] == [(functions, traces)] * 2
