"""tests of fit, evaluate and predict on a TPUStrategy, against stock Keras on one device

The strategy is TensorFlow's own, and its programs run on the CPU, see support/tpu_emulation.py.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tpu_emulation
import xla_replicas
from models import OwnStep
from parity import harness, table, worlds

import tfdist

layers = keras.layers
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
_ROWS = {case.name: case for case in table.ROWS}
_TOLERANCE = 1e-5  # XLA sums float64 between replicas as float32


@pytest.fixture(scope="module")
def replicas(pytestconfig: pytest.Config) -> Iterator[xla_replicas.Replicas]:
    with xla_replicas.started(pytestconfig, 2) as started:
        yield started


@pytest.fixture
def strategy(replicas: xla_replicas.Replicas) -> tf.distribute.TPUStrategy:
    made = tpu_emulation.strategy(replicas)
    assert isinstance(made, tf.distribute.TPUStrategy)
    assert made.num_replicas_in_sync == 2
    return made


@pytest.mark.parametrize(
    "name",
    [
        "SGD global_clipnorm",
        "last batch of one, Adam with clipping",
        "reduction sum_over_batch_size, sample weights",
    ],
)
def test_row_of_the_parity_table(name: str, strategy: tf.distribute.TPUStrategy) -> None:
    case = dataclasses.replace(_ROWS[name], tolerance=_TOLERANCE)
    outcome = harness.run(case, harness.distributed(strategy))
    assert harness.differences(outcome, worlds.oracle(case), case.tolerance) == []


def _data(count: int = 22) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(count, 8)).astype("float32")
    return x, rng.normal(size=(count, 3)).astype("float32")


def _model(*parts: Any, kind: Any = keras.Sequential, **options: Any) -> keras.Model:
    keras.utils.set_random_seed(1)
    model = kind([keras.Input((8,)), layers.Dense(6, activation="tanh"), *parts, layers.Dense(3)])
    # The epsilon keeps Adam from blowing up the rounding of gradients that are all but 0.
    optimizer = keras.optimizers.Adam(0.01, epsilon=1e-3, **options.pop("adam", {}))
    model.compile(optimizer, "mse", **{"metrics": ["mae"], **options})
    return model


_OPTIONS = {"batch_size": 8, "epochs": 2, "shuffle": False, "verbose": 0}


def _assert_same(model: keras.Model, other: keras.Model, *, atol: float = 1e-6) -> None:
    for mine, theirs in zip(model.variables, other.variables, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), atol=atol)
    states = zip(model.optimizer.variables, other.optimizer.variables, strict=True)
    for mine, theirs in states:
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), atol=atol)


def _assert_alike(model: keras.Model, strategy: tf.distribute.Strategy) -> None:
    for variable in [*model.trainable_variables, *model.optimizer.variables]:
        first, second = strategy.experimental_local_results(variable.value)
        np.testing.assert_array_equal(first.numpy(), second.numpy())


@pytest.mark.parametrize(
    ("parts", "options"),
    [
        ([lambda: layers.BatchNormalization(synchronized=True)], {}),
        ([], {"adam": {"gradient_accumulation_steps": 2, "global_clipnorm": 0.1}}),
        ([], {"adam": {"use_ema": True, "ema_overwrite_frequency": 2}, "steps_per_execution": 2}),
        # XLA's random numbers are others than those of TensorFlow's kernels, on one device too.
        ([lambda: layers.Dropout(0.5)], {"jit_compile": True}),
    ],
    ids=["synchronized", "accumulating", "averaged", "dropping"],
)
def test_fit_validate_and_predict(
    parts: Any, options: Any, strategy: tf.distribute.TPUStrategy
) -> None:
    x, y = _data()
    expected = _model(*(part() for part in parts), **dict(options))
    history = expected.fit(x, y, validation_data=(x[:5], y[:5]), **_OPTIONS).history
    with strategy.scope():
        model = _model(*(part() for part in parts), **dict(options))
    found = tfdist.fit(model, x, y, validation_data=(x[:5], y[:5]), **_OPTIONS).history
    assert list(found) == list(history)
    for name, values in history.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-5)
    _assert_same(model, expected)
    _assert_alike(model, strategy)
    outputs = tfdist.predict(model, x, batch_size=8, verbose=0)
    np.testing.assert_allclose(outputs, expected.predict(x, verbose=0), atol=1e-5)


def test_a_checkpoint_in_the_midst_of_an_epoch(
    strategy: tf.distribute.TPUStrategy, tmp_path: pathlib.Path
) -> None:
    class Broken(keras.callbacks.Callback):
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            if batch == 2:
                raise ArithmeticError("broken off")

    x, y = _data(32)
    normalization = layers.BatchNormalization  # whose averages each replica has for itself
    with strategy.scope():
        whole, broken, resumed = (_model(normalization()) for _ in range(3))
    history = tfdist.fit(whole, x, y, **_OPTIONS).history
    saving = {**_OPTIONS, "checkpoint_dir": tmp_path, "save_every": 1}
    with pytest.raises(ArithmeticError):
        tfdist.fit(broken, x, y, callbacks=[Broken()], **saving)
    found = tfdist.fit(resumed, x, y, **saving).history
    assert found == history
    _assert_same(resumed, whole, atol=0)
    averages = [
        [part.numpy() for part in strategy.experimental_local_results(model.variables[4].value)]
        for model in (whole, resumed)
    ]
    assert whole.variables[4].path.endswith("moving_mean")
    assert (averages[0][0] != averages[0][1]).any()
    np.testing.assert_array_equal(*averages)


@pytest.mark.parametrize("on_nan", ["skip", "raise"])
def test_a_batch_that_is_no_number(on_nan: str, strategy: tf.distribute.TPUStrategy) -> None:
    x, y = _data(24)
    broken = x.copy()
    broken[8] = np.nan  # a row of replica 0, in the second step
    options = {**_OPTIONS, "epochs": 1}
    with strategy.scope():
        model, other = (_model(layers.BatchNormalization(synchronized=True)) for _ in range(2))
    if on_nan == "raise":
        with pytest.raises(RuntimeError, match="At step 2 of the run the gradient"):
            tfdist.fit(model, broken, y, on_nan="raise", **options)
        assert np.isfinite(np.asarray(model.trainable_variables[0])).all()
        return
    found = tfdist.fit(model, broken, y, on_nan="skip", **options).history
    good = [*range(8), *range(16, 24)]
    history = tfdist.fit(other, x[good], y[good], **options).history
    assert found["loss"] == pytest.approx(history["loss"], rel=1e-6)
    _assert_same(model, other)


def test_a_step_of_ones_own(strategy: tf.distribute.TPUStrategy) -> None:
    x, y = _data(24)
    expected = _model(kind=OwnStep, adam={"global_clipnorm": 0.1}, metrics=None)
    history = expected.fit(x, y, **_OPTIONS).history
    with strategy.scope():
        model = _model(kind=OwnStep, adam={"global_clipnorm": 0.1}, metrics=None)
    found = tfdist.fit(model, x, y, **_OPTIONS).history
    np.testing.assert_allclose(found["own"], history["own"], rtol=1e-5)
    _assert_same(model, expected)


@pytest.mark.parametrize("is_loop", [True, False], ids=["loop", "replica_step"])
def test_a_rule_of_ones_own(is_loop: bool, strategy: tf.distribute.TPUStrategy) -> None:
    x, y = _data(24)
    expected = _model(adam={"global_clipnorm": 0.1})
    history = expected.fit(x, y, **{**_OPTIONS, "epochs": 1}).history
    with strategy.scope():
        model = _model(adam={"global_clipnorm": 0.1})
        model.optimizer.build(model.trainable_variables)

    def replica_step(batch: Any) -> Any:
        inputs, targets = batch
        with tf.GradientTape() as tape:
            errors = keras.losses.mean_squared_error(targets, model(inputs, training=True))
            loss = tfdist.average_loss(errors)
        gradients = tape.gradient(loss, model.trainable_variables)
        tfdist.apply_gradients(model.optimizer, gradients, model.trainable_variables)
        return loss

    if is_loop:
        train_step = tfdist.make_train_step(replica_step, strategy)
        batches = tf.data.Dataset.from_tensor_slices((x, y)).batch(8, drop_remainder=True)
        losses = [train_step(b).numpy() for b in tfdist.distribute_dataset(batches, strategy)]
        assert np.mean(losses) == pytest.approx(history["loss"][0], rel=1e-5)
    else:
        trainer = tfdist.Trainer(model, replica_step=replica_step)
        trainer.fit(x, y, **{**_OPTIONS, "epochs": 1})
    _assert_same(model, expected)
    _assert_alike(model, strategy)


@pytest.mark.parametrize(("reduction", "atol"), [("bfloat16", 3e-3), ("float16", 3e-4)])
def test_a_narrower_wire(
    reduction: str, atol: float, strategy: tf.distribute.TPUStrategy
) -> None:
    x, y = _data()
    expected = _model()
    expected.fit(x, y, **_OPTIONS)
    with strategy.scope():
        model = _model()
    tfdist.fit(model, x, y, reduction=reduction, **_OPTIONS)
    with pytest.raises(AssertionError):
        _assert_same(model, expected, atol=1e-7)  # else nothing was rounded
    for mine, theirs in zip(model.variables, expected.variables, strict=True):
        np.testing.assert_allclose(np.asarray(mine), np.asarray(theirs), atol=atol)


def test_a_profile(strategy: tf.distribute.TPUStrategy) -> None:
    x, y = _data()
    with strategy.scope():
        model = _model()
    history = tfdist.fit(model, x, y, profile=True, **_OPTIONS)
    assert history.profile.replicas == 2
