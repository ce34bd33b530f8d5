"""tests of tfdist/step/own_gradients.py: steps that use gradients before they apply them"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import data, worlds

import tfdist

layers, ops = keras.layers, keras.ops


class _Step(keras.Sequential):
    """A model whose subclasses say what is done with the gradients."""

    def loss_of(self, batch: Any) -> Any:
        x, y = batch
        return ops.mean(keras.losses.sparse_categorical_crossentropy(y, self(x, training=True)))

    def gradients(self, batch: Any) -> Any:
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            loss = self.loss_of(batch)
        return loss, tape.gradient(loss, variables)

    def train_step(self, batch: Any) -> dict[str, Any]:
        loss, gradients = self.used(batch)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"cost": loss}


class _Penalty(_Step):
    """The gradients of a loss with a penalty on its gradients, as meta-learning takes them."""

    def used(self, batch: Any) -> Any:
        with tf.GradientTape() as outer:
            loss, gradients = self.gradients(batch)
            loss += 0.3 * tf.linalg.global_norm(gradients) ** 3
        return loss, outer.gradient(loss, self.trainable_variables)


class _Traced(_Step):
    """Gradients of functions inside of the step, of which means are taken."""

    @tf.function
    def in_function(self, batch: Any) -> Any:
        return self.gradients(batch)

    def used(self, batch: Any) -> Any:
        def more(number: Any, sums: Any) -> Any:
            again = self.gradients(batch)[1]
            return number + 1, [a + b / 2 for a, b in zip(sums, again, strict=True)]

        zeros = [tf.zeros_like(v) for v in self.trainable_variables]
        sums = tf.while_loop(lambda number, _: number < 2, more, (0, zeros))[1]
        loss, gradients = self.in_function(batch)
        return loss, [a + b for a, b in zip(gradients, sums, strict=True)]


class _Differentiated(_Step):
    """Rows of a Jacobian, which nobody may sum while they are taken."""

    def used(self, batch: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = self.loss_of(batch)
            both = tf.stack([loss, 2 * loss])
        return loss, [ops.sum(rows, 0) for rows in tape.jacobian(both, self.trainable_variables)]


class _Clipped(_Step):
    def used(self, batch: Any) -> Any:
        loss, gradients = self.gradients(batch)
        return loss, tf.clip_by_global_norm(gradients, 0.1)[0]


class _Accumulated(_Step):
    """Adds gradients up, and applies every second sum."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        loss, gradients = self.gradients(batch)
        for variable, gradient in zip(self.sums, gradients, strict=True):
            variable.assign_add(tf.convert_to_tensor(gradient))
        self.number.assign_add(1)
        tf.cond(tf.equal(self.number % 2, 0), self.update, lambda: None)
        return {"cost": loss}

    def update(self) -> None:
        sums = [variable.value for variable in self.sums]
        self.optimizer.apply_gradients(zip(sums, self.trainable_variables, strict=True))
        for variable in self.sums:
            variable.assign(tf.zeros_like(variable))


class _Drawn(_Step):
    """Zeros and ones that TensorFlow draws, in place of the gradients."""

    def used(self, batch: Any) -> Any:
        loss, gradients = self.gradients(batch)
        drawn = [tf.round(tf.random.uniform(g.shape, dtype=g.dtype)) for g in gradients]
        return loss, [0 * g + one for g, one in zip(gradients, drawn, strict=True)]


class _ClippedInFunction(_Clipped):
    @tf.function
    def used(self, batch: Any) -> Any:
        return super().used(batch)


class _ClippedOutside(_Step):
    @tf.function
    def in_function(self, batch: Any) -> Any:
        return self.gradients(batch)

    def used(self, batch: Any) -> Any:
        loss, gradients = self.in_function(batch)
        return loss, tf.clip_by_global_norm(gradients, 0.1)[0]


def _dense() -> list[Any]:
    return [keras.Input((data.FEATURES,)), layers.Dense(4, "tanh")]


def _table() -> list[Any]:
    inputs = keras.Input((data.STEPS,), dtype="int32")
    return [inputs, layers.Embedding(data.TOKENS, 2), layers.Flatten()]


def _model(kind: type, make_first: Callable[[], list[Any]] = _dense, **options: Any) -> Any:
    keras.utils.set_random_seed(3)
    model = kind([*make_first(), layers.Dense(data.CLASSES, "softmax")], name="model")
    if kind is _Accumulated:
        zeros = {"trainable": False, "initializer": "zeros"}
        model.number = model.add_weight(shape=(), dtype="int32", **zeros)
        model.sums = [model.add_weight(shape=v.shape, **zeros) for v in model.trainable_variables]
    model.compile(keras.optimizers.Adam(0.05), **options)
    return model


_FIT = {"batch_size": 3, "epochs": 1, "shuffle": False, "verbose": 0}  # 3, 3, 1


def _compare(kind: type, x: Any, make_first: Callable[[], list[Any]], **options: Any) -> None:
    y, strategy = data.labels(7), worlds.local_strategy(2)
    alone = _model(kind, make_first, **options)
    expected = alone.fit(x, y, **_FIT).history
    with strategy.scope():
        model = _model(kind, make_first, **options)
    history = tfdist.fit(model, x, y, **_FIT).history
    np.testing.assert_allclose(history["cost"], expected["cost"], rtol=1e-9)
    for mine, theirs in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [_Penalty, _Traced, _Differentiated])
def test_gradients_are_those_of_the_global_batch(kind: type, float64: None) -> None:
    _compare(kind, data.features(7), _dense)


@pytest.mark.parametrize("kind", [_Clipped, _Accumulated])
def test_gradients_of_steps_that_run_eagerly(kind: type, float64: None) -> None:
    _compare(kind, data.tokens(7), _table, run_eagerly=True)


def test_what_a_step_draws_is_drawn_once() -> None:
    with worlds.local_strategy(2).scope():
        model = _model(_Drawn)
        model.compile(keras.optimizers.SGD(1.0))
    before = model.get_weights()
    tfdist.fit(model, data.features(2), data.labels(2), check=False, **_FIT)
    drawn = np.concatenate(
        [np.ravel(old - new) for old, new in zip(before, model.get_weights(), strict=True)]
    )
    assert 0.1 < drawn.mean() < 0.9
    np.testing.assert_allclose(drawn, np.round(drawn), atol=1e-6)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        (_Accumulated, "optimizer.apply is called inside of tf.cond.*gradient_accumulation_steps"),
        (_ClippedInFunction, "are used before optimizer.apply gets them.*in train_step itself"),
        (_ClippedOutside, "are used before optimizer.apply gets them.*in train_step itself"),
    ],
)
def test_what_replicas_cannot_sum_is_refused(kind: type, cause: str) -> None:
    with worlds.local_strategy(2).scope():
        model = _model(kind)
    with pytest.raises(ValueError, match=cause):
        tfdist.fit(model, data.features(7), data.labels(7), **_FIT)


def test_the_gradient_of_the_gradient_of_a_table_is_refused() -> None:
    with worlds.local_strategy(2).scope():
        model = _model(_Penalty, _table)
    with pytest.raises(ValueError, match="gradient of the gradient of an embedding"):
        tfdist.fit(model, data.tokens(7), data.labels(7), **_FIT)
