"""tests of tfdist/global_batch/whole_batch.py: losses and metrics that are one number a batch"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from parity.one_step import added, on_replicas, traced

from tfdist.global_batch import losses_metrics, position, whole_batch

_SIZES = (7, 4, 1)


def _rows(size: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(size)
    return {"y": (rng.uniform(size=(size, 3)) > 0.5) * 1.0, "p": rng.uniform(0.1, 1, (size, 3))}


class Largest(keras.losses.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return ops.max(ops.abs(y_true - y_pred))


_LOSSES: dict[str, Callable[[], Any]] = {
    "a mean": lambda: keras.losses.MeanAbsoluteError(dtype="float64"),
    "a mean of one's own": lambda: lambda y, p: ops.mean((y - p) ** 2),
    "a sum": lambda: lambda y, p: ops.sum((y - p) ** 2),
    "a ratio": lambda: lambda y, p: ops.sum(y * p) / (1 + ops.sum(p)),
    "Dice": lambda: keras.losses.Dice(dtype="float64"),
    "Tversky": lambda: keras.losses.Tversky(dtype="float64"),
    "a class of one's own": lambda: Largest(dtype="float64"),
}


def _loss(make: Callable[[], Any]) -> Any:
    made = make()
    if isinstance(made, keras.losses.Loss):
        return made
    wrapper = keras.src.losses.losses.LossFunctionWrapper
    return wrapper(made, dtype="float64")


@pytest.mark.parametrize("name", _LOSSES)
def test_loss_and_gradient(name: str) -> None:
    loss = _loss(_LOSSES[name])

    def both(rows: Any) -> Any:
        factor = tf.constant(0.7, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(factor)
            value = losses_metrics.mean_of_rows(loss(rows["y"], rows["p"] * factor))
        return value, tape.gradient(value, factor)

    run = traced(both, _rows(1), 4)
    for size in _SIZES:
        expected = both(keras.tree.map_structure(tf.constant, _rows(size)))
        np.testing.assert_allclose(added(run(_rows(size))), expected, rtol=1e-10, err_msg=str(size))


def test_sample_weights_are_refused() -> None:
    loss = _loss(_LOSSES["a sum"])
    with pytest.raises(ValueError, match="Return one value for each example"):
        on_replicas(lambda r: loss(r["y"], r["p"], sample_weight=r["y"][:, 0]), _rows(4), 2)


def test_mask_is_refused() -> None:
    loss = _loss(_LOSSES["a ratio"])

    def masked(rows: Any) -> Any:
        p = tf.identity(rows["p"])
        p._keras_mask = rows["y"] > 0
        return loss(rows["y"], p)

    with pytest.raises(ValueError, match="on 2 replicas"):
        on_replicas(masked, _rows(4), 2)


def test_circle_is_refused() -> None:
    loss = keras.losses.Circle()
    labels = np.array([0, 1, 0, 1])
    with pytest.raises(ValueError, match="Train with it on one device"):
        on_replicas(lambda r: loss(labels[:2], r["p"]), _rows(4), 2)


def _of_all(rows: Any) -> Any:
    return whole_batch.with_own_gradient(rows, position.current())


@pytest.mark.parametrize("size", _SIZES)
def test_rows_of_all_replicas(size: int) -> None:
    for dtype in ("float32", "int64", "bool"):
        rows = (np.arange(size * 6).reshape(size, 2, 3) % 5 - 1).astype(dtype)
        results = on_replicas(_of_all, rows, 4, fill_empty=True)
        for result in results:
            np.testing.assert_array_equal(result, rows)
            assert result.dtype == rows.dtype


def test_infinities_stay_where_they_are() -> None:
    rows = np.array([1.0, np.inf, np.nan, 4.0])
    for result in on_replicas(_of_all, rows, 2):
        np.testing.assert_array_equal(result, rows)
