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


_WEIGHTED = {
    "weights": ("mean_with_sample_weight", True, False),
    "weights, sum_over_batch_size": ("sum_over_batch_size", True, False),
    "weights, sum": ("sum", True, False),
    "mask": ("sum_over_batch_size", False, True),
    "mask, sum": ("sum", False, True),
    "mask, weighted": ("mean_with_sample_weight", False, True),
    "both": ("sum_over_batch_size", True, True),
    "both, sum": ("sum", True, True),
}


@pytest.mark.parametrize("name", _WEIGHTED)
def test_weights_and_masks_of_one_number(name: str) -> None:
    reduction, has_weights, has_mask = _WEIGHTED[name]
    loss = keras.losses.Dice(reduction=reduction, dtype="float64")

    def both(rows: Any) -> Any:
        factor = tf.constant(0.7, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(factor)
            p = rows["p"] * factor
            if has_mask:
                p._keras_mask = rows["y"] > 0
            weights = rows["p"][:, :1] if has_weights else None
            value = losses_metrics.mean_of_rows(loss(rows["y"], p, sample_weight=weights))
        return value, tape.gradient(value, factor)

    run = traced(both, _rows(1), 4)
    for size in _SIZES:
        expected = both(keras.tree.map_structure(tf.constant, _rows(size)))
        np.testing.assert_allclose(added(run(_rows(size))), expected, rtol=1e-10, err_msg=str(size))


def test_weights_are_refused_where_they_make_a_value_for_each_example() -> None:
    loss = keras.losses.Dice(reduction=None, dtype="float64")
    with pytest.raises(ValueError, match="on 2 replicas. Return one value for each example"):
        on_replicas(lambda r: loss(r["y"], r["p"], sample_weight=r["y"][:, 0]), _rows(4), 2)


@pytest.mark.parametrize("number", [0.1, 3, np.float64(0.1)])
def test_numbers_of_python(number: Any) -> None:
    """A loss or metric function may return what is not a tensor, as in Keras."""
    loss = _loss(lambda: lambda y, p: number)

    def both(rows: Any) -> Any:
        metrics = keras.src.metrics.reduction_metrics  # its function is replaced on a replica
        value, _ = metrics.reduce_to_samplewise_values(number, None, ops.mean, "float64")
        return losses_metrics.mean_of_rows(loss(rows["y"], rows["p"])), value

    expected = both(keras.tree.map_structure(tf.constant, _rows(4)))
    np.testing.assert_allclose(added(on_replicas(both, _rows(4), 2)), expected, rtol=1e-12)


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
