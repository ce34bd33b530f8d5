"""tests of tfdist/global_batch/all_rows.py; whole trainings are in the parity table"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import data, worlds
from parity.one_step import on_replicas

import tfdist

_FIT = {"batch_size": 3, "verbose": 0}


@pytest.mark.parametrize("size", [7, 2])  # two replicas of four have no row of two
def test_order_and_dtype(size: int) -> None:
    rows = np.arange(size * 6).reshape(size, 2, 3) % 5 - 1
    kinds = {name: rows.astype(name) for name in ("float32", "float64", "int64", "bool")}
    results = on_replicas(
        lambda x: {name: tfdist.all_rows(part) for name, part in x.items()}, kinds, 4,
        fill_empty=True,
    )
    for result in results:
        for name, expected in kinds.items():
            np.testing.assert_array_equal(result[name], expected)
            assert result[name].dtype == expected.dtype


def test_it_is_the_tensor_itself_where_there_is_no_other_replica() -> None:
    rows = tf.constant([[1.0], [2.0]])
    assert tfdist.all_rows(rows) is rows
    inputs = keras.Input((2,))
    assert tfdist.all_rows(inputs) is inputs
    strategy = worlds.local_strategy(2)
    with strategy.scope():
        assert tfdist.all_rows(rows) is rows


def test_gradients_in_a_step_by_hand(float64: None) -> None:
    """Of layers before and after it, with batches of 4, 4 and 1 rows."""

    def loss_of(model: keras.Model, rows: Any) -> Any:
        made = model.layers[1](tfdist.all_rows(model.layers[0](rows)))
        return tf.math.reduce_std(made) + tf.reduce_sum(made**2)

    def made() -> keras.Model:
        layers = [keras.layers.Dense(3, "tanh"), keras.layers.Dense(2)]
        model = keras.Sequential([keras.Input((data.FEATURES,)), *layers])
        model.compile(keras.optimizers.Adam(0.05))
        model.optimizer.build(model.trainable_variables)
        return model

    alone, strategy = made(), worlds.local_strategy(2)
    with strategy.scope():
        model = made()
    model.set_weights(alone.get_weights())

    def replica_step(rows: Any) -> Any:
        variables = model.trainable_variables
        with tf.GradientTape() as tape:
            loss = loss_of(model, rows) / strategy.num_replicas_in_sync  # this replica's share
        tfdist.apply_gradients(model.optimizer, tape.gradient(loss, variables), variables)
        return loss

    step = tfdist.make_train_step(replica_step, strategy)
    dataset = tf.data.Dataset.from_tensor_slices(data.features(9)).batch(4)
    losses = [float(step(rows)) for rows in tfdist.distribute_dataset(dataset, strategy)]
    for rows, loss in zip(dataset, losses, strict=True):
        with tf.GradientTape() as tape:
            expected = loss_of(alone, rows)
        variables = alone.trainable_variables
        alone.optimizer.apply(tape.gradient(expected, variables), variables)
        np.testing.assert_allclose(loss, expected, rtol=1e-9)
    for mine, theirs in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


def _joined(rows: Any) -> Any:
    return tfdist.all_rows(tf.concat([rows, rows], 0))


def _scalar(rows: Any) -> Any:
    return tfdist.all_rows(tf.reduce_sum(rows))


def _in_cond(rows: Any) -> Any:
    return tf.cond(tf.reduce_sum(rows) > 0, lambda: tfdist.all_rows(rows), lambda: rows)


@pytest.mark.parametrize(
    ("function", "error", "cause"),
    [
        (_joined, tf.errors.InvalidArgumentError, "one entry for each row of a replica.*by one"),
        (_scalar, ValueError, "Give a value for each row"),
        (_in_cond, ValueError, "2 replicas cannot ask each other. Call it outside"),
    ],
)
def test_what_cannot_be_gathered_is_refused(function: Any, error: type, cause: str) -> None:
    with pytest.raises(error, match=cause):
        on_replicas(function, np.ones((5, 2)), 2)


class _Spread(keras.layers.Layer):
    """Compares the rows of the batch in a layer, which code that pads a batch cannot know."""

    def call(self, x: Any) -> Any:
        return x - tf.reduce_mean(tfdist.all_rows(x), axis=0)


def test_rows_that_pad_a_batch_are_refused() -> None:
    with worlds.local_strategy(2).scope():
        model = keras.Sequential([keras.Input((data.FEATURES,)), _Spread(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="tfdist.all_rows.*rows that only pad.*Give full batches"):
        tfdist.fit(model, data.features(7), data.numbers(7), static_shapes=True, **_FIT)
    full = {**_FIT, "batch_size": 4, "static_shapes": True}
    tfdist.fit(model, data.features(4), data.numbers(4), **full)
