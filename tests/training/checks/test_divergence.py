"""Are replicas that part found while nobody asks, and those left alone that should differ?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from models import Codebook
from two_workers import Apart

import tfdist
from tfdist.communication.workers import Workers
from tfdist.training.checks import divergence
from tfdist.training.checks.fingerprints import Comparison, same_everywhere

_X = np.random.default_rng(0).normal(size=(20, 3))


class _Spoil(keras.callbacks.Callback):
    """Changes a number on one replica."""

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 1:
            bias = self.model.layers[-1].bias.value
            part = self.model.distribute_strategy.experimental_local_results(bias)[1]
            part.assign(part.numpy() + 1)


def _fit(*layers: Any, epochs: int = 3, **kwargs: Any) -> keras.Model:
    keras.utils.set_random_seed(2)
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), *(kind() for kind in layers),
                                  keras.layers.Dense(1, name="last")])
        model.compile("adam", "mse", metrics=["mae"])
    tfdist.fit(model, _X, _X[:, :1], batch_size=4, epochs=epochs, verbose=0, **kwargs)
    return model


def _synchronized():
    return keras.layers.BatchNormalization(synchronized=True)


def _dropout():
    return keras.layers.Dropout(0.5)


def test_a_weight_that_parts_is_found_in_time_and_at_the_end(monkeypatch):
    with pytest.raises(RuntimeError, match=r"^After step 15 .*: 'model/.*last/bias' differs betw"):
        _fit(callbacks=[_Spoil()])
    monkeypatch.setattr(divergence, "_EVERY_SECS", 0.0)
    monkeypatch.setattr(divergence, "_SHARE", 0)
    with pytest.raises(RuntimeError, match=r"^After step 10 .*last/bias' differs between the rep"):
        _fit(callbacks=[_Spoil()])


def test_what_should_differ_is_left_alone(caplog):
    model = _fit(keras.layers.BatchNormalization, _dropout, _synchronized, epochs=1)
    names = [entry.name for entry in same_everywhere(model)]
    moving = [name for name in names if "moving" in name]
    assert len(moving) == 2, "those of the synchronized one"
    assert any("seed_generator" in name for name in names)
    assert not [name for name in names if name.startswith("metrics")]
    assert "no longer hold the same" not in caplog.text


@pytest.mark.parametrize("check", ["raise", False])
def test_a_state_that_parts_is_refused_or_warned_of_once(check, caplog):
    def run() -> None:  # the first step of a model with a plain normalization is not checked
        _fit(Codebook, keras.layers.BatchNormalization, epochs=1, check=check)

    if check == "raise":
        with pytest.raises(RuntimeError, match=r"^After step 5 .*'model/.*/book' differs between"):
            run()
        return
    run()
    told = [record for record in caplog.records if "no longer hold" in record.getMessage()]
    assert len(told) == 1
    with pytest.raises(RuntimeError, match="^After step 1 .*/book' differs .1 of"):
        _fit(Codebook, keras.layers.BatchNormalization, check=False, fingerprint_every=1)


def test_states_of_replicas_that_train_on_their_own_may_differ(caplog):
    """A spectral normalization estimates a vector of each replica's own weights."""
    kind = lambda: keras.layers.SpectralNormalization(keras.layers.Dense(3))  # noqa: E731
    model = _fit(kind, epochs=2, local_steps=2, fingerprint_every=2)
    vector = next(v for v in model.variables if "vector_u" in v.path).value
    first, second = model.distribute_strategy.experimental_local_results(vector)
    assert np.abs(first.numpy() - second.numpy()).max() > 0, "the test has to tell something"
    assert "no longer hold" not in caplog.text


def test_workers_with_other_weights_do_not_begin():
    model = _fit(_synchronized, epochs=1)
    names = [entry.name for entry in same_everywhere(model)]

    def refuse(index):
        workers = Apart(model.distribute_strategy, index)
        divergence.refuse_other_weights(model, Comparison(model, workers))

    refuse(None)
    for index, name in enumerate(names):  # weights, states of layers, the optimizer's
        with pytest.raises(ValueError, match=r"^The workers begin with diff") as told:
            refuse(index)
        assert f"{name!r} differs" in str(told.value)
        assert "workers [0] hold one value, [1] another" in str(told.value)


def test_comparing_takes_its_share_of_the_time(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(divergence.time, "monotonic", lambda: clock[0])
    model = _fit(epochs=1)

    class Slow:
        workers = Workers(model.distribute_strategy)

        def differences(self) -> tuple[str, str]:
            clock[0] += 0.5
            return "", ""

    vigil = divergence.Divergence(model, Slow(), check="raise")
    assert not vigil.is_due()
    clock[0] += divergence._EVERY_SECS
    assert vigil.is_due()
    vigil.compare(1)
    clock[0] += 0.5 * divergence._SHARE - 1
    assert not vigil.is_due()
    clock[0] += 1
    assert vigil.is_due()
