"""Is a gradient that is no number found, named, and kept from the weights?"""

from __future__ import annotations

import logging

import keras
import numpy as np
import pytest

import tfdist

_BATCH = 4
_GOOD = np.random.default_rng(0).normal(size=(32, 3)).astype(np.float32)
_BAD = _GOOD.copy()
_BAD[9] = np.nan  # in the third step of an epoch of eight


def _fit(device="2xcpu", x=_GOOD, *, keep=slice(None), optimizer="adam", epochs=1, **kwargs):
    keras.utils.set_random_seed(1)
    with tfdist.get_strategy(device).scope():
        layers = [
            keras.layers.BatchNormalization(synchronized=True, name="norm"),
            keras.layers.Dense(2, name="first"),
            keras.layers.Dense(1, name="last"),
        ]
        model = keras.Sequential([keras.Input((3,)), *layers])
        made = optimizer() if callable(optimizer) else optimizer
        model.compile(made, "mse", metrics=["mae"], run_eagerly=kwargs.pop("eager", True))
    x = x[keep]
    history = tfdist.fit(
        model, x, x[:, :1] * 0 + 1, batch_size=_BATCH, epochs=epochs, shuffle=False, verbose=0,
        **kwargs,
    )
    return model, history.history


@pytest.mark.parametrize(("device", "eager"), [("cpu", True), ("2xcpu", True), ("2xcpu", False)])
def test_raise_names_step_and_gradient_and_leaves_the_weights(device, eager):
    expected, _ = _fit(device, keep=slice(8))
    models = []

    class Keep(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            models.append(self.model)

    with pytest.raises(RuntimeError, match=r"^At step 3 of the run the gradient of '.*norm/gamma'"):
        _fit(device, _BAD, on_nan="raise", eager=eager, callbacks=[Keep()])
    for found, wanted in zip(models[0].trainable_weights, expected.trainable_weights, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize(("device", "eager"), [("cpu", True), ("2xcpu", False)])
def test_skip_is_as_if_the_batch_had_not_been_there(device, eager, caplog):
    rest = [i for i in range(32) if not 8 <= i < 12]
    expected, logs = _fit(device, keep=rest, epochs=2)
    found, skipped_logs = _fit(device, _BAD, on_nan="skip", epochs=2, eager=eager)
    for a, b in zip(found.weights, expected.weights, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    for name in logs:
        np.testing.assert_allclose(skipped_logs[name], logs[name], rtol=1e-5)
    lines = [record.message for record in caplog.records if "left out" in record.message]
    assert sum(int(line.split()[0]) for line in lines) == 2
    assert "at step 3." in lines[0]
    assert "at step 11." in lines[-1]


def test_default_goes_on_as_keras_does_and_says_where_it_began(caplog):
    model, logs = _fit(x=_BAD, epochs=2)
    assert np.isnan(logs["loss"]).all()
    assert np.isnan(model.get_weights()[-1]).all()
    [line] = [record.message for record in caplog.records if "is nan" in record.message]
    assert line.startswith("The loss is nan at step ")
    assert "/norm/gamma' is the first variable that is not finite" in line


@pytest.mark.parametrize(("x", "on_nan"), [(_GOOD, "warn"), (_BAD, "ignore")])
def test_nothing_is_said_where_nothing_is_wrong_or_asked_for(caplog, x, on_nan):
    caplog.set_level(logging.WARNING)
    _fit(x=x, on_nan=on_nan)
    assert not [record for record in caplog.records if record.name == "tfdist"]


@pytest.mark.slow
def test_good_steps_are_not_changed_by_being_looked_at():
    expected, logs = _fit(epochs=2)
    for on_nan in ("raise", "skip"):
        model, found = _fit(epochs=2, on_nan=on_nan)
        assert found == logs
        for a, b in zip(model.weights, expected.weights, strict=True):
            np.testing.assert_array_equal(a, b)


def test_loss_scaling_skips_by_itself():
    def scaled():
        sgd = keras.optimizers.SGD(0.01)
        return keras.optimizers.LossScaleOptimizer(sgd, initial_scale=2.0**127)

    model, _ = _fit(optimizer=scaled, on_nan="raise")  # its first steps overflow, and are to
    assert np.isfinite(model.get_weights()[0]).all()


def test_rows_of_an_embedding_are_looked_at():
    with tfdist.get_strategy("2xcpu").scope():
        layers = [keras.layers.Embedding(5, 2, name="words"), keras.layers.Flatten()]
        model = keras.Sequential([keras.Input((1,)), *layers, keras.layers.Dense(1)])
        model.compile("sgd", "mse", run_eagerly=True)
    with pytest.raises(RuntimeError, match="At step 2 of the run the gradient of '.*words/embedd"):
        tfdist.fit(model, np.ones((8, 1)), np.array([1.0] * 5 + [np.inf] * 3), batch_size=4,
                   shuffle=False, verbose=0, on_nan="raise")


def test_policies_that_cannot_be():
    with pytest.raises(ValueError, match="on_nan='stop' must be one of 'warn', 'raise', 's"):
        _fit(on_nan="stop")

    class Own(keras.Model):
        def train_step(self, data):
            return {}

    with tfdist.get_strategy("cpu").scope():
        inputs = keras.Input((1,))
        model = Own(inputs, keras.layers.Dense(1)(inputs))
        model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="on_nan='skip' looks at the gradients of Keras's own"):
        tfdist.fit(model, np.ones((1, 1)), np.ones(1), on_nan="skip")


@pytest.mark.parametrize("on_nan", ["raise", "skip"])
def test_inside_the_scope_it_is_the_same(on_nan, logical_cpus):
    strategy = tfdist.get_strategy("2xcpu")
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        history = tfdist.fit(model, _GOOD, _GOOD[:, 0], on_nan=on_nan, verbose=0)
    assert np.isfinite(history.history["loss"]).all()


def test_draws_go_on_where_a_step_is_left_out(logical_cpus):
    """As they do in Keras where a loss scale overflows."""
    keras.utils.set_random_seed(1)
    with tfdist.get_strategy("2xcpu").scope():
        model = keras.Sequential(
            [keras.Input((3,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
        )
        model.compile("sgd", "mse")
    state = model.layers[0].seed_generator.state
    before = np.asarray(state).copy()
    options = {"batch_size": _BATCH, "shuffle": False, "verbose": 0}
    tfdist.fit(model, _BAD, _GOOD[:, 0], on_nan="skip", **options)
    assert int((np.asarray(state) - before)[1]) == len(_BAD) // _BATCH
