"""tests of tfdist/training/custom_loop.py: own loops, against `fit` of stock Keras on one device"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import data, models, worlds

import tfdist

layers, optimizers = keras.layers, keras.optimizers


def _build(optimizer: Callable[[], Any]) -> keras.Model:
    keras.utils.set_random_seed(7)
    return models.mlp(
        optimizer,
        lambda: layers.Dense(4, activation="tanh", kernel_regularizer="l2"),
        lambda: layers.Dropout(0.3, seed=1),
    )()


def _dataset(batch_size: int = 5) -> tf.data.Dataset:
    arrays = (data.features(), data.labels())
    return tf.data.Dataset.from_tensor_slices(arrays).batch(batch_size)  # 5, 5, 5, 5, 2


def _loop(model: keras.Model, strategy: Any, *, epochs: int = 2) -> list[float]:
    """The loop of training/custom_loop.py's synopsis, word for word."""
    optimizer = model.optimizer

    def replica_step(batch: Any) -> Any:
        x, y = batch
        with tf.GradientTape() as tape:
            per_example = keras.losses.sparse_categorical_crossentropy(y, model(x, training=True))
            loss = tfdist.average_loss(per_example, model=model)
            scaled = optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, model.trainable_variables)
        tfdist.apply_gradients(optimizer, gradients, model.trainable_variables)
        return loss

    train_step = tfdist.make_train_step(replica_step, strategy)
    losses = []
    for _ in range(epochs):
        for batch in tfdist.distribute_dataset(_dataset(), strategy):
            losses.append(float(train_step(batch)))
    return losses


class _BatchLosses(keras.callbacks.Callback):
    """Collects the loss of each batch by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.losses: list[float] = []

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self.losses.append(float(logs["loss"]))
        self.model.reset_metrics()


_OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "SGD": lambda: optimizers.SGD(0.1, momentum=0.9),
    "Adam, clipping, accumulation": lambda: optimizers.Adam(
        0.01, global_clipnorm=0.1, gradient_accumulation_steps=2
    ),
    "Adam, averaged weights": lambda: optimizers.Adam(
        0.01, use_ema=True, ema_overwrite_frequency=2
    ),
    "LossScaleOptimizer": lambda: optimizers.LossScaleOptimizer(optimizers.Adam(clipnorm=0.1)),
}


@pytest.mark.parametrize("num_replicas", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", _OPTIMIZERS)
def test_loop_equals_fit(name: str, num_replicas: int) -> None:
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    alone, seen = _build(_OPTIMIZERS[name]), _BatchLosses()
    alone.fit(_dataset(), epochs=2, shuffle=False, verbose=0, callbacks=[seen])
    strategy = worlds.local_strategy(num_replicas)
    with strategy.scope():
        model = _build(_OPTIMIZERS[name])
    losses = _loop(model, strategy)
    if "averaged" not in name:  # `fit` ends with the averages in the weights, a loop does not
        for mine, theirs in zip(model.get_weights(), alone.get_weights(), strict=True):
            np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(losses, seen.losses, rtol=1e-9)


def test_loop_works_inside_the_scope_as_well() -> None:
    strategy = worlds.local_strategy(2)
    with strategy.scope():
        model = _build(models.momentum)
        inside = _loop(model, strategy, epochs=1)
        other = _build(models.momentum)
    np.testing.assert_allclose(inside, _loop(other, strategy, epochs=1), rtol=1e-6)


# ---- the parts -------------------------------------------------------------------------------


def _shares(function: Callable[[Any], Any], batch_size: int, num_replicas: int) -> list[float]:
    """Returns what `make_train_step` sums up for each batch."""
    strategy = worlds.local_strategy(num_replicas)
    step = tfdist.make_train_step(function, strategy)
    dataset = tf.data.Dataset.from_tensor_slices((data.numbers(7, 3), data.weights(7)))
    batches = tfdist.distribute_dataset(dataset.batch(batch_size), strategy)
    return [float(step(batch)) for batch in batches]


@pytest.mark.parametrize("batch_size", [7, 3, 1])
@pytest.mark.parametrize("num_replicas", [2, 4])
def test_average_loss(batch_size: int, num_replicas: int) -> None:
    """(n,) and (n, steps), with a weight for each example: the mean counts entries."""
    values, weights = data.numbers(7, 3), data.weights(7)
    for row_losses, row_weights in ((values, weights[:, None]), (values[:, 0], weights)):
        found = _shares(
            lambda b, rank=row_losses.ndim: tfdist.average_loss(
                b[0] if rank == 2 else b[0][:, 0], sample_weight=b[1]
            ),
            batch_size,
            num_replicas,
        )
        weighted = row_losses * row_weights
        expected = [weighted[i : i + batch_size].mean() for i in range(0, 7, batch_size)]
        np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_average_loss_of_one_device() -> None:
    found = tfdist.average_loss(tf.constant([1.0, 2.0, 6.0]), sample_weight=[1.0, 1.0, 0.5])
    assert float(found) == 2.0


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_apply_gradients_takes_none_and_sparse_ones() -> None:
    strategy = worlds.local_strategy(2)
    with strategy.scope():
        table = keras.Variable(np.zeros((4, 2), "float32"))
        unused, bias = keras.Variable(1.0), keras.Variable(2.0)
        optimizer = optimizers.SGD(1.0)
        optimizer.build([table, unused, bias])

    def replica_step(batch: Any) -> Any:
        rows = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]), tf.constant([4, 2]))
        gradients = [rows, None, tf.reduce_sum(batch)]
        tfdist.apply_gradients(optimizer, gradients, [table, unused, bias])
        return tf.constant(0.0)

    step = tfdist.make_train_step(replica_step, strategy)
    dataset = tf.data.Dataset.from_tensor_slices(np.float32([1, 2, 3])).batch(3)
    for batch in tfdist.distribute_dataset(dataset, strategy):
        step(batch)
    np.testing.assert_allclose(np.asarray(table), [[0, 0], [-2, -2], [0, 0], [0, 0]])
    assert np.asarray(unused) == 1
    assert np.asarray(bias) == 2 - 6


def test_apply_gradients_wants_a_gradient_for_each_variable() -> None:
    with pytest.raises(ValueError, match="There are 1 gradients for 2 variables"):
        tfdist.apply_gradients(optimizers.SGD(), [tf.ones([])], [1, 2])


def test_parts_want_a_replica() -> None:
    with worlds.local_strategy(2).scope():
        for call in (
            lambda: tfdist.average_loss(tf.ones([2])),
            lambda: tfdist.apply_gradients(optimizers.SGD(), [], []),
        ):
            with pytest.raises(RuntimeError, match="Call it inside the function"):
                call()


def test_distribute_dataset_wants_batches() -> None:
    dataset = tf.data.Dataset.from_tensor_slices([1.0, 2.0])
    with pytest.raises(ValueError, match="not batched"):
        next(iter(tfdist.distribute_dataset(dataset, worlds.local_strategy(2))))


@pytest.mark.parametrize("batch_size", [7, 3, 1])
def test_distribute_dataset_gives_each_example_to_one_replica(batch_size: int) -> None:
    strategy = worlds.local_strategy(4)
    dataset = tf.data.Dataset.range(7).batch(batch_size)
    for number, batch in enumerate(tfdist.distribute_dataset(dataset, strategy)):
        rows = [row for part in strategy.experimental_local_results(batch) for row in part.numpy()]
        first = number * batch_size
        assert rows == list(range(first, min(first + batch_size, 7)))


def test_random_layers_draw_each_examples_own_values() -> None:
    strategy = worlds.local_strategy(2)
    dropout = layers.Dropout(0.5, seed=1)
    whole = np.asarray(dropout(np.ones((7, 3), "float32"), training=True))
    with strategy.scope():
        mirrored = layers.Dropout(0.5, seed=1)
    kept = _shares_of_rows(lambda batch: mirrored(batch, training=True), strategy)
    np.testing.assert_array_equal(kept, whole)


def _shares_of_rows(function: Callable[[Any], Any], strategy: Any) -> np.ndarray:
    """Runs a function of rows on replicas, and puts its rows back into the global batch."""

    def replica_step(batch: Any) -> Any:
        indices, x = batch
        return tf.scatter_nd(indices[:, None], function(x), [7, 3])

    step = tfdist.make_train_step(replica_step, strategy)
    dataset = tf.data.Dataset.from_tensor_slices((np.arange(7), np.ones((7, 3), "float32")))
    (batch,) = tfdist.distribute_dataset(dataset.batch(7), strategy)
    return np.asarray(step(batch))


@pytest.mark.parametrize("returns", ["a tensor", "a dict"])
def test_a_rule_of_ones_own_trains_by_itself_without_compile(returns, logical_cpus):
    """The function of one's own loop, given to a Trainer as it is."""
    with tfdist.get_strategy("2xcpu").scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
        model.layers[0].kernel.assign(np.zeros((3, 1)))
        optimizer = keras.optimizers.SGD(0.5)
        optimizer.build(model.trainable_variables)

    def replica_step(batch):
        x, y = batch
        with tf.GradientTape() as tape:
            loss = tfdist.average_loss(tf.square(model(x)[:, 0] - y), model=model)
        gradients = tape.gradient(loss, model.trainable_variables)
        tfdist.apply_gradients(optimizer, gradients, model.trainable_variables)
        return loss if returns == "a tensor" else {"loss": loss}

    trainer = tfdist.Trainer(model, replica_step=replica_step)
    x = np.eye(3, dtype="float32")
    history = trainer.fit(x, np.array([1.0, 2.0, 3.0], "float32"), batch_size=3, verbose=0)
    assert history.history["loss"] == pytest.approx([14 / 3])
    assert np.asarray(model.layers[0].kernel)[:, 0] == pytest.approx(np.array([1.0, 2.0, 3.0]) / 3)
