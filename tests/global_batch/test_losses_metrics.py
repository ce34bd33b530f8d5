"""tests of tfdist/global_batch/losses_metrics.py: replicas' shares add up to one device's"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity.one_step import added, total, traced

from tfdist.global_batch import losses_metrics

ROWS = (7, 4, 1)  # of the global batch: uneven, even, and all replicas but one empty
REPLICAS = (2, 4)


def _random(*shape: int, low: float = 0.1) -> np.ndarray:
    return np.random.default_rng(len(shape)).uniform(low, 2.0, size=shape)


def _batch(size: int) -> dict[str, np.ndarray]:
    mask = _random(size, 3) > 0.8
    mask[0] = True
    return {
        "y": _random(size, 3, 2),
        "p": _random(2, size, 3, 2)[1],
        "weight": _random(1, size, 3)[0],
        "mask": mask,
    }


def _loss_of(batch: Any, *, reduction: Any, weighted: bool, masked: bool) -> Any:
    loss = keras.losses.MeanSquaredError(reduction=reduction, dtype="float64")
    p = tf.identity(batch["p"])
    if masked:
        p._keras_mask = batch["mask"]
    return loss(batch["y"], p, sample_weight=batch["weight"] if weighted else None)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    "reduction", ["sum", "sum_over_batch_size", "mean", "mean_with_sample_weight"]
)
def test_loss(reduction: str, weighted: bool, masked: bool) -> None:
    options = {"reduction": reduction, "weighted": weighted, "masked": masked}

    def share(rows: Any) -> Any:
        return losses_metrics.mean_of_rows(_loss_of(rows, **options))

    run = traced(share, _batch(1), 4)
    for size in ROWS:
        batch = _batch(size)
        whole = _loss_of(keras.tree.map_structure(tf.constant, batch), **options)
        np.testing.assert_allclose(added(run(batch)), whole, rtol=1e-12, err_msg=f"{size} rows")


@pytest.mark.parametrize("size", ROWS)
def test_gradient_of_a_masked_weighted_loss(size: int) -> None:
    batch = _batch(size)
    options = {"reduction": "sum_over_batch_size", "weighted": True, "masked": True}

    def gradient(rows: Any) -> Any:
        factor = tf.constant(1.5, tf.float64)
        with tf.GradientTape() as tape:
            tape.watch(factor)
            loss = _loss_of({**rows, "p": rows["p"] * factor}, **options)
            loss = losses_metrics.mean_of_rows(loss)
        return tape.gradient(loss, factor)

    whole = gradient(keras.tree.map_structure(tf.constant, batch))
    np.testing.assert_allclose(total(gradient, batch, 4), whole, rtol=1e-12)


def test_no_valid_step_anywhere_is_no_nan() -> None:
    batch = {**_batch(4), "mask": np.zeros((4, 3), bool)}
    options = {"reduction": "sum_over_batch_size", "weighted": False, "masked": True}

    def share(rows: Any) -> Any:
        return losses_metrics.mean_of_rows(_loss_of(rows, **options))

    assert total(share, batch, 2) == 0


@pytest.mark.parametrize("num_replicas", REPLICAS)
def test_scalar_counts_by_its_rows(num_replicas: int) -> None:
    """A mean that reaches a `Mean` metric already reduced: never a mean of means."""
    values = _random(7)

    def states(rows: Any) -> Any:
        samples, weight = keras.src.metrics.reduction_metrics.reduce_to_samplewise_values(
            keras.ops.mean(rows), None, keras.ops.mean, "float64"
        )
        return keras.ops.sum(samples), keras.ops.sum(weight)

    values_sum, count = total(states, values, num_replicas)
    assert values_sum == pytest.approx(values.mean(), rel=1e-12)
    assert count == pytest.approx(1, rel=1e-12)


def test_rows_of_a_metric_are_left_alone() -> None:
    values, weights = _random(7), _random(1, 7)[0]

    def states(rows: Any) -> Any:
        samples, weight = keras.src.metrics.reduction_metrics.reduce_to_samplewise_values(
            rows["v"], rows["w"], keras.ops.mean, "float64"
        )
        return keras.ops.sum(samples), keras.ops.sum(weight)

    values_sum, count = total(states, {"v": values, "w": weights}, 4)
    assert values_sum == pytest.approx((values * weights).sum(), rel=1e-12)
    assert count == pytest.approx(weights.sum(), rel=1e-12)


def test_unreduced_losses_are_shares_already() -> None:
    def share(rows: Any) -> Any:
        return keras.ops.sum(losses_metrics.mean_of_rows(rows))

    values = _random(7)
    assert total(share, values, 2) == pytest.approx(values.sum(), rel=1e-12)


def test_constant_loss_counts_once() -> None:
    """What is the same whatever the rows, such as a regularizer, is not added up by replicas."""

    def share(rows: Any) -> Any:
        del rows
        return losses_metrics.mean_of_rows(tf.constant(0.25, tf.float64))

    for size in ROWS:
        assert total(share, _random(size), 4) == pytest.approx(0.25, rel=1e-12)


def test_outside_of_a_step_keras_is_as_it_was() -> None:
    batch = keras.tree.map_structure(tf.constant, _batch(4))
    before = _loss_of(batch, reduction="sum", weighted=True, masked=True)
    total(lambda rows: keras.ops.sum(rows), _random(4), 2)
    assert _loss_of(batch, reduction="sum", weighted=True, masked=True) == before
    assert losses_metrics.mean_of_rows(before) is before
