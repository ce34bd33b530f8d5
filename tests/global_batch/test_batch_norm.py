"""tests of tfdist/global_batch/batch_norm.py; whole models are in the parity table"""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import data, models, worlds
from parity.one_step import added, traced
from tensorflow.python.ops import op_selector

import tfdist
from tfdist.global_batch import batch_norm

layers = keras.layers


def _input_gradient(layer: Any, x: Any, mask: Any) -> Any:
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True, mask=mask)
        valid = tf.cast(mask, x.dtype)[..., None] if mask is not None else 1.0
        total = tf.reduce_sum(valid * y**3 * tf.range(1, 4, dtype=x.dtype))
    return tape.gradient(total, x)


@pytest.mark.parametrize("masked", [False, True])
def test_gradient_through_synchronized_moments(masked: bool) -> None:
    rng = np.random.default_rng(0)
    build = {"synchronized": True, "dtype": "float64"}
    layer = layers.BatchNormalization(**build)
    layer.build((None, 5, 3))
    with worlds.local_strategy(2).scope():
        mirrored = layers.BatchNormalization(**build)
        mirrored.build((None, 5, 3))

    def gradients(rows: Any) -> Any:
        return _input_gradient(mirrored, rows["x"], rows["mask"] if masked else None)

    like = {"x": np.zeros((1, 5, 3)), "mask": np.zeros((1, 5), bool)}
    run = traced(gradients, like, 2)
    for size in (7, 2):
        rows = {"x": rng.normal(size=(size, 5, 3)), "mask": rng.uniform(size=(size, 5)) > 0.3}
        mask = tf.constant(rows["mask"]) if masked else None
        expected = _input_gradient(layer, tf.constant(rows["x"]), mask)
        found = np.concatenate(run(rows))
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_filler_of_an_empty_replica_is_no_statistic() -> None:
    moments = batch_norm.global_moments()["_compute_moments_sync"]
    run = traced(lambda x: moments(x, [0], False), np.zeros((1, 2)), 4, fill_empty=True)
    x = np.array([[1.0, 5.0], [3.0, 5.0]])
    for mean, variance in run(x):
        np.testing.assert_allclose(mean, [2, 5])
        np.testing.assert_allclose(variance, [1, 0])
    assert added([1, 2]) == 3


_CASES = [
    # layers, replicas, what the warning names
    ([lambda: layers.BatchNormalization(name="plain")], 2, "plain"),
    ([lambda: layers.BatchNormalization(name="one")] * 1 + [lambda: layers.ReLU()], 3, "one"),
    ([lambda: layers.BatchNormalization(synchronized=True)], 2, None),
    ([lambda: layers.BatchNormalization(trainable=False)], 2, None),
    ([lambda: layers.BatchNormalization()], 1, None),
    ([lambda: layers.LayerNormalization()], 2, None),
    ([lambda: keras.Sequential([layers.BatchNormalization(name="inner")])], 2, "inner"),
]


@pytest.mark.parametrize(("middle", "replicas", "named"), _CASES)
def test_warning(
    middle: list[Any], replicas: int, named: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    model = models.mlp(models.momentum, *middle)()
    with caplog.at_level(logging.WARNING, logger="tfdist"):
        batch_norm.warn_of_plain(model, replicas)
        batch_norm.warn_of_plain(model, replicas)
    if named is None:
        assert caplog.messages == []
    else:
        (message,) = caplog.messages
        assert message.startswith(named)
        assert "synchronized=True" in message


def test_fit_warns(caplog: pytest.LogCaptureFixture) -> None:
    with worlds.local_strategy(2).scope():
        model = models.mlp(models.momentum, layers.BatchNormalization)()
    with caplog.at_level(logging.WARNING, logger="tfdist"):
        for _ in range(2):
            tfdist.fit(model, data.features(4), data.labels(4), verbose=0)
    assert len([m for m in caplog.messages if "synchronized=True" in m]) == 1
    assert len(batch_norm.plain_batch_normalizations(model)) == 1


def test_tracing_goes_through_no_other_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    """TensorFlow's own sum with a gradient does, for each sum, through all that was traced."""
    walk, found = op_selector.get_backward_walk_ops, []

    def counted(*args: Any, **kwargs: Any) -> Any:
        found.append(walk(*args, **kwargs))
        return found[-1]

    monkeypatch.setattr(op_selector, "get_backward_walk_ops", counted)
    moments = batch_norm.global_moments()["_compute_moments_sync"]

    def many(x: Any) -> Any:
        for _ in range(40):
            x = tf.sin(x)
        return moments(x, [0], False)

    traced(many, np.zeros((1, 2)), 2)
    assert len(found) > 2 * 3  # on each of two replicas
    assert max(map(len, found)) < 20
