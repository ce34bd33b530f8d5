"""Is a metric's result shown over all replicas, under whatever name a step returns it?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.step.metric_results import Result, Results

_X = np.random.default_rng(0).normal(size=(7, 3)).astype("float32")


class Both(keras.metrics.Metric):
    """Has a dict as its result."""

    def __init__(self) -> None:
        super().__init__(name="both")
        self.total = self.add_weight(shape=(), initializer="zeros", name="total")

    def update_state(self, values: Any) -> None:
        self.total.assign_add(tf.reduce_sum(values))

    def result(self) -> dict[str, Any]:
        return {"sum": self.total, "half": self.total / 2}


class Renamed(keras.Sequential):
    """Logs its metrics under other names, one of them under that of another metric."""

    def __init__(self) -> None:
        super().__init__([keras.Input((3,)), keras.layers.Dense(1)])
        self.total, self.error = keras.metrics.Mean(name="total"), keras.metrics.Mean(name="error")
        self.both = Both()

    @property
    def metrics(self) -> list[Any]:
        return [self.total, self.error, self.both]

    def train_step(self, data: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(data)))
        variables = self.trainable_variables
        self.optimizer.apply(tape.gradient(loss, variables), variables)
        self.total.update_state(loss)
        self.error.update_state(2 * loss)
        self.both.update_state(tf.square(data))
        return {"loss": self.total.result(), "total": self.error.result(), **self.both.result()}


@pytest.mark.parametrize("eager", [False, True])
def test_names_are_free(eager):
    def history(scope: Any, fit: Any) -> dict[str, Any]:
        keras.utils.set_random_seed(1)
        with scope:
            model = Renamed()
            model.compile("sgd", run_eagerly=eager)
        data = tf.data.Dataset.from_tensor_slices(_X).batch(4)
        return dict(fit(model, data, epochs=2, verbose=0, shuffle=False).history)

    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    expected = history(tf.distribute.OneDeviceStrategy("/cpu:0").scope(), keras.Model.fit)
    found = history(strategy.scope(), tfdist.fit)
    assert set(found) == set(expected) == {"loss", "total", "sum", "half"}
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)


def test_what_is_noted_is_put_back():
    metric, model = keras.metrics.Mean(name="m"), Renamed()
    model.extra = metric
    results = Results()
    with results.noting(model):
        value = model.total.result()
        assert results.of(value) == Result(model.total, None)
        assert results.of(value + 0) is None
    assert "result" not in vars(model.total)
    assert results.of(model.total.result()) is None
