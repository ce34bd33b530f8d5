"""Is a step that is computed whole the one of stock Keras on one device, whatever the program does?

The programs here mean nothing for a part of a batch: their losses are sums, or compare examples;
their layers contract over the batch, and assign states.
"""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from first_step import planted

import tfdist

layers, ops = keras.layers, keras.ops


pytestmark = pytest.mark.usefixtures("float64")


class Codebook(layers.Layer):
    """Contracts over the batch, and assigns a moving average of it."""

    def build(self, shape: Any) -> None:
        self.kept = self.add_weight(shape=(shape[-1],), initializer="ones", trainable=False)

    def call(self, x: Any) -> Any:
        self.kept.assign(0.9 * self.kept + 0.1 * ops.mean(x, axis=0))
        return ops.matmul(x, ops.matmul(ops.transpose(x), x)) * self.kept


class Lowest(keras.metrics.Metric):
    """A moving average of minima: it is assigned, and does not begin with zero."""

    def __init__(self) -> None:
        super().__init__(name="lowest")
        # The value of a reset: Keras resets no metric that it has not built yet.
        self.low = self.add_weight(
            shape=(), initializer=keras.initializers.Constant(50.0), name="low"
        )

    def reset_state(self) -> None:
        self.low.assign(50.0)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.low.assign(0.5 * self.low + ops.min(y_pred))

    def result(self) -> Any:
        return self.low + 0.0


class Own(keras.Sequential):
    """An own step: a sum, clipped by an own norm, with a whole number of the rows as a log."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = ops.sum(ops.square(y - y_pred))
        gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, self.trainable_variables), 0.3)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {"cost": loss, "rows": tf.shape(x)[0], **self.get_metrics_result()}


class Hardest(keras.losses.Loss):
    """A triplet loss with the hardest negative of the batch."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        apart = ops.sum(ops.abs(y_pred[:, None] - y_pred[None]), axis=-1)
        return ops.sum(ops.relu(1 + ops.square(y_true[:, 0]) - ops.max(apart, axis=-1)))


def _own(**compiled: Any) -> keras.Model:
    model = Own([
        keras.Input((3,)), layers.Dense(3), layers.Dropout(0.3, seed=4), Codebook(),
        layers.Dense(1),
    ])  # fmt: skip
    model.compile(keras.optimizers.Adam(0.1), "mse", metrics=[Lowest()], **compiled)
    return model


def _keras() -> keras.Model:
    model = keras.Sequential([
        keras.Input((3,)), layers.Dense(4, "tanh"), layers.BatchNormalization(), layers.Dense(2),
    ])  # fmt: skip
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=2)
    model.compile(optimizer, Hardest(), metrics=["mae", Lowest()])
    return model


class _Batches(keras.utils.PyDataset):
    def __len__(self) -> int:
        return 3

    def __getitem__(self, number: int) -> Any:
        x, y = planted.data()
        return x[5 * number : 5 * number + 5], y[5 * number : 5 * number + 5]


class _Rows(tfdist.RowsDataset):
    def get_rows(self, indices: np.ndarray) -> Any:
        x, y = planted.data()
        return x[indices], y[indices]


def _data(kind: str) -> dict[str, Any]:
    x, y = planted.data()
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(20, seed=2)
    if kind == "arrays":
        return {"x": x, "y": y, "batch_size": 5}
    if kind == "PyDataset":
        return {"x": _Batches()}
    if kind == "rows":
        return {"x": _Rows(num_rows=len(x), batch_size=5)}
    return {"x": dataset.batch(5, drop_remainder=kind == "fixed")}


def _outcome(build: Any, kind: str, device: str | None, **kwargs: Any) -> dict[str, Any]:
    """Trains, evaluates and predicts: by tfdist, or by stock Keras on one device."""
    keras.utils.set_random_seed(1)
    given = {"epochs": 2, "shuffle": False, "verbose": 0, **kwargs}
    x, y = planted.data()
    strategy = tfdist.get_strategy(device) if device else None
    assert strategy is None or strategy.num_replicas_in_sync > 1
    with strategy.scope() if strategy else contextlib.nullcontext():
        model = build()
    if strategy is None:
        fit, evaluate, predict = model.fit, model.evaluate, model.predict
    else:
        fit, evaluate, predict = (
            functools.partial(method, model, check="whole")
            for method in (tfdist.fit, tfdist.evaluate, tfdist.predict)
        )
    history = fit(**_data(kind), **given, validation_data=(x, y), validation_batch_size=4)
    logs = evaluate(x, y, batch_size=4, verbose=0, return_dict=True)
    outputs = predict(x, batch_size=4, verbose=0)
    found = {v.path: np.asarray(v) for v in [*model.variables, *model.optimizer.variables]
             if "seed" not in v.path and "metric" not in v.path and "lowest" not in v.path}
    return {
        "variables": list(found.values()), "outputs": outputs, "evaluated": logs,
        "history": {name: history.history[name] for name in sorted(history.history)},
    }


def _require_same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    assert found["history"].keys() == expected["history"].keys()
    flat = [tf.nest.flatten(one) for one in (found, expected)]
    assert len(flat[0]) == len(flat[1])
    for one, other in zip(*flat, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("build", "kind", "device"),
    [
        (_own, "arrays", "2xcpu"), (_keras, "dataset", "2xcpu"), (_own, "PyDataset", "2xcpu"),
        (_own, "fixed", "2xcpu"), (_keras, "arrays", "4xcpu"),
        (functools.partial(_own, run_eagerly=True), "dataset", "2xcpu"),
        (functools.partial(_own, steps_per_execution=2), "arrays", "4xcpu"),
    ],
)  # fmt: skip
def test_as_on_one_device(build, kind, device, caplog):
    found = _outcome(build, kind, device)
    told = [record.getMessage() for record in caplog.records if record.name == "tfdist"]
    assert [t for t in told if "So every train_step is computed whole" in t] == told[:1]
    _require_same(found, _outcome(build, kind, None))


def _on_worker() -> dict[str, Any]:
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    return {
        kind: _outcome(build, kind, "cpu")
        for build, kind in ((_own, "arrays"), (_own, "dataset"), (_keras, "rows"))
    }


# 60 s: only on workers do states travel, and is data compared that each of them reads whole.
@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("total", [2, 3])
def test_on_workers(total):
    of_workers = tfdist.testing.run_workers(_on_worker, workers=total, timeout_secs=360)
    assert len(of_workers) == total
    expected = {
        "arrays": _outcome(_own, "arrays", None), "dataset": _outcome(_own, "dataset", None),
        "rows": _outcome(_keras, "rows", None),
    }
    for found in of_workers:
        for kind, one in expected.items():
            _require_same(found[kind], one)


class Drawing(layers.Layer):
    """Assigns a state that TensorFlow draws, which no seed of Keras reaches."""

    def build(self, shape: Any) -> None:
        self.kept = self.add_weight(shape=(), initializer="ones", trainable=False)

    def call(self, x: Any) -> Any:
        self.kept.assign(tf.random.normal([], dtype=x.dtype))
        return x + self.kept


def test_draws_that_bypass_keras_leave_the_replicas_alike():
    x, y = planted.data()
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync > 1
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), Drawing(), layers.Dense(1)])
        model.compile("adam", "mse")
    tfdist.fit(model, x, y, batch_size=5, verbose=0, check="whole")
    for variable in model.variables:
        if "metric" not in variable.path and "loss" not in variable.path:
            first, second = strategy.experimental_local_results(variable.value)
            np.testing.assert_array_equal(first, second)
