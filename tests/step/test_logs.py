"""Is a log of a step what one device shows, or refused? Whole trainings are in the parity table."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import worlds
from parity.one_step import total

from tfdist.step.logs import LastLogs, extra_logs

_ROWS = np.random.default_rng(0).normal(size=(7, 6)).astype("float32")
_REPLICAS = 2


def _model() -> keras.Model:
    with worlds.local_strategy(_REPLICAS).scope():
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
        return model


def _shown(value_of: Callable[[Any], Any], *, name: str = "own", rows: Any = _ROWS) -> Any:
    """Returns what the shares of all replicas come to."""
    model = _model()
    return total(lambda x: extra_logs(model, {name: value_of(x)}), rows, _REPLICAS)


_ALIKE: dict[str, Callable[[Any], Any]] = {
    "a mean": lambda x: tf.reduce_mean(x),
    "a mean of each feature": lambda x: tf.reduce_mean(x, axis=0),
    "a constant": lambda x: tf.constant(2.5),
    "a number": lambda x: 3.5,
    "a whole number": lambda x: 4,
    "a truth": lambda x: True,
}


@pytest.mark.parametrize("name", _ALIKE)
def test_is_what_one_device_shows(name: str) -> None:
    expected = np.asarray(_ALIKE[name](tf.constant(_ROWS)), "float32")
    np.testing.assert_allclose(_shown(_ALIKE[name])["own"], expected, rtol=1e-5)


def test_an_empty_replica_adds_nothing() -> None:
    found = _shown(lambda x: tf.reduce_mean(x[:, 0]), rows=_ROWS[:1])
    np.testing.assert_allclose(found["own"], _ROWS[0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("value_of", "told"),
    [
        (lambda x: tf.shape(x)[0], "'own' is a whole number that comes of the rows"),
        (lambda x: tf.reduce_sum(tf.cast(x[:, 0] > 0, tf.int32)), "such as keras.metrics.Sum"),
        (lambda x: x[:, 0], r"'own' has the shape \(None,\), with a value for each row"),
    ],
)
def test_what_cannot_be_known_is_refused(value_of: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        _shown(value_of)


def test_what_a_metric_holds_is_read_later_under_its_name_and_refused_under_another() -> None:
    model = _model()
    [tracker] = model.metrics

    def of_state(name: str) -> Any:
        return total(lambda x: extra_logs(model, {name: tracker.total + 0.0}), _ROWS, _REPLICAS)

    assert of_state("loss") == {}
    with pytest.raises(ValueError, match="'other' is computed from the metric state"):
        of_state("other")


def test_own_logs_are_shown_by_their_own_names() -> None:
    logs = LastLogs()
    assert logs.shown({"loss": 1.0}) == {"loss": 1.0}
    logs.keep({"cost": tf.constant(2.0)})
    assert set(logs.shown({"loss": 1.0})) == {"cost", "loss"}  # of Keras's own step
    logs.names = ("cost", "accuracy")
    shown = logs.shown({"loss": 1.0, "accuracy": 0.5})
    assert {name: float(value) for name, value in shown.items()} == {"cost": 2.0, "accuracy": 0.5}
    logs.names = ("loss",)
    logs.keep({"loss": tf.constant(3.0)})
    assert logs.shown({"loss": 1.0}) == {"loss": 1.0}  # as Keras: by the names of the metrics
