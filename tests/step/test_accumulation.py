"""Is one reduction an update enough, and does nobody see the difference? One device is the oracle.

What comes out is in the parity table (the rows named "accumulation"); this is about what travels,
and about what is there between two calls of the traced loop.
"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.communication import reduction
from tfdist.step import accumulation

_STEPS = 4  # of an epoch
_X = np.random.default_rng(0).normal(size=(22, 4))  # batches of 6, the last one of 4
_Y = np.random.default_rng(1).integers(0, 3, 22)


class Listener(keras.callbacks.Callback):
    """Looks at single batches, so that each is a call of the loop."""

    def on_train_batch_end(self, batch, logs=None):
        pass


pytestmark = pytest.mark.usefixtures("float64")


@pytest.fixture
def reductions(monkeypatch, logical_cpus):
    """Counts the sums of gradients that are run, not the ones that are traced."""
    count = tf.Variable(0, trainable=False)
    original = reduction.sum_gradients

    def counting(*args, **kwargs):
        count.assign_add(1)
        return original(*args, **kwargs)

    monkeypatch.setattr(reduction, "sum_gradients", counting)
    return count


def build(scope=None, **options):
    keras.utils.set_random_seed(3)
    with scope or tf.distribute.get_strategy().scope():
        model = keras.Sequential(
            [
                keras.Input((4,)),
                keras.layers.Dense(5, activation="tanh"),
                keras.layers.Dense(3, activation="softmax"),
            ]
        )
        model.compile(
            keras.optimizers.Adam(0.05, **{"gradient_accumulation_steps": 3, **options}),
            "sparse_categorical_crossentropy",
        )
    return model


def distributed(replicas=2, **options):
    strategy = tfdist.get_strategy(f"{replicas}xcpu", cluster=None)
    assert strategy.num_replicas_in_sync == replicas > 1
    return build(strategy.scope(), **options)


def everything(model):
    return [np.asarray(variable) for variable in [*model.variables, *model.optimizer.variables]]


def fit(model, **kwargs):
    kwargs = {"batch_size": 6, "epochs": 3, "shuffle": False, "verbose": 0, **kwargs}
    return tfdist.fit(model, _X, _Y, **kwargs)


def assert_as_one_device(model, epochs=3, **options):
    one = build(**options)
    one.fit(_X, _Y, batch_size=6, epochs=epochs, shuffle=False, verbose=0)
    for mine, theirs in zip(everything(model), everything(one), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)


def test_one_reduction_an_update(reductions):
    model = distributed()
    fit(model)
    # 12 steps are 4 updates; two epochs end in the midst of a round, which is one more each.
    assert int(reductions) == 4 + 2
    assert_as_one_device(model)


def test_whole_rounds_cost_nothing_more(reductions):
    model = distributed(gradient_accumulation_steps=2)
    fit(model, epochs=5)
    assert int(reductions) == 5 * _STEPS / 2
    assert_as_one_device(model, epochs=5, gradient_accumulation_steps=2)


@pytest.mark.slow
def test_who_looks_at_single_batches_sees_one_device(reductions):
    sums = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            of_bias = self.model.optimizer._accumulated_gradients[1].value
            sums.append([part.numpy() for part in of_bias.values])

    model = distributed()
    fit(model, callbacks=[Look()])
    assert len(sums) == 3 * _STEPS
    for number, (first, second) in enumerate(sums, start=1):
        np.testing.assert_array_equal(first, second)
        assert (number % 3 == 0) == (not first.any())
    assert_as_one_device(model)


@pytest.mark.parametrize(
    ("options", "kwargs"),
    [
        ({"loss_scale_factor": 8.0}, {}),
        ({}, {"on_nan": "raise"}),
        ({}, {"on_nan": "skip"}),
    ],
    ids=str,
)
def test_where_each_sum_is_looked_at_there_is_one_a_step(reductions, options, kwargs):
    model = distributed(**options)
    fit(model, **kwargs)
    assert int(reductions) == 3 * _STEPS
    assert_as_one_device(model, **options)


def test_constraints_hold_in_every_step(reductions):
    def constrained(scope=None):
        model = build(scope)
        model.layers[0].kernel.constraint = keras.constraints.MaxNorm(0.5)
        return model

    model = constrained(tfdist.get_strategy("2xcpu", cluster=None).scope())
    fit(model)
    one = constrained()
    one.fit(_X, _Y, batch_size=6, epochs=3, shuffle=False, verbose=0)
    for mine, theirs in zip(everything(model), everything(one), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-12)
    assert int(reductions) == 4 + 2


def test_data_that_fails_in_the_midst_of_a_round_leaves_replicas_alike(logical_cpus):
    def failing(row, label):
        is_bad = tf.debugging.assert_less(row, tf.constant(1e6, row.dtype))
        with tf.control_dependencies([is_bad]):
            return tf.identity(row), label

    x = np.concatenate([_X[:12], np.full((6, 4), 1e9)])
    dataset = tf.data.Dataset.from_tensor_slices((x, _Y[:18])).map(failing).batch(6)
    model = distributed()
    with pytest.raises(tf.errors.InvalidArgumentError):
        tfdist.fit(model, dataset, epochs=1, verbose=0)
    of_bias = model.optimizer._accumulated_gradients[1].value
    first, second = (part.numpy() for part in of_bias.values)
    assert first.any()
    np.testing.assert_array_equal(first, second)


class Stop(Exception):
    """Ends a run in its midst."""


@pytest.mark.slow
@pytest.mark.parametrize("save_every", [4, 5])
def test_resumed_in_the_midst_of_a_round_it_has_the_same_bits(tmp_path, save_every, logical_cpus):
    class StopAt(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise Stop

    def run(folder, *callbacks):
        model = distributed()
        options = {"checkpoint_dir": folder, "save_every": save_every, "callbacks": callbacks}
        history = fit(model, epochs=4, **options)
        return [value.tobytes() for value in everything(model)], history.history

    whole = run(tmp_path / "whole")
    with pytest.raises(Stop):
        run(tmp_path / "parts", StopAt())
    assert run(tmp_path / "parts") == whole


def test_one_replica_has_nothing_to_sum(logical_cpus):
    model = build()
    strategy = tf.distribute.get_strategy()
    assert not accumulation.is_possible(model, strategy, on_nan="warn")
