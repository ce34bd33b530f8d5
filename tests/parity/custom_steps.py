"""Rows: models that bring their own training rule."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from parity import data, models
from parity.case import BOTH, NO_THIRD_WORKER, WORLDS, Case

layers, ops = keras.layers, keras.ops


class Supered(keras.Sequential):
    """Calls Keras's own `train_step`, as models that only add something do."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        return dict(super().train_step((2 * x, y)))


class OwnStep(keras.Sequential):
    """The `train_step` of Keras's guides, written out."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = self.compute_loss(y=y, y_pred=y_pred)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss)
            else:
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}


class _Descends(keras.Sequential):
    """Goes down the gradient of a mean that it computes by itself, as most steps of people do."""

    def descended(self, batch: Any) -> tuple[Any, Any]:
        """Updates the weights; returns the outputs before it, and the loss."""
        x, y = batch
        with tf.GradientTape() as tape:
            y_pred = self(x, training=True)
            loss = ops.mean(keras.losses.sparse_categorical_crossentropy(y, y_pred))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return y_pred, loss


class RawLogs(_Descends):
    """Returns values of the step itself, with the optimizer's among them."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        y_pred, loss = self.descended(batch)
        return {
            "loss": loss,
            "of_first": {"probability": ops.mean(y_pred[:, 0])},
            "rate": self.optimizer.learning_rate,
            "step": self.optimizer.iterations,
            "is_late": self.optimizer.iterations > 2,
            "number": 1,
        }


class Costly(_Descends):
    """Returns its loss by a name of its own."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        _, loss = self.descended(batch)
        return {"cost": loss}


class OwnNames(_Descends):
    """Returns a metric and a loss that no metric tracks; the model's own loss stays unused."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        _, loss = self.descended(batch)
        return {"cost": loss, "accuracy": tf.constant(0.25, tf.float64)}

    test_step = train_step


class SummedRows(keras.Sequential):
    """Hands a loss for each row to the tape, which takes the gradient of their sum."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        with tf.GradientTape() as tape:
            with tf.GradientTape() as inner:
                inner.watch(x)
                y_pred = self(x, training=True)
            slopes = inner.gradient(y_pred, x)  # of each row for itself
            loss = keras.losses.sparse_categorical_crossentropy(y, y_pred)
            loss += 0.1 * ops.sum(ops.square(slopes), axis=-1)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"cost": ops.mean(loss)}


class OwnTest(keras.Sequential):
    """A `test_step` of its own, and Keras's training."""

    def test_step(self, batch: Any) -> dict[str, Any]:
        x, y = batch
        y_pred = self(x, training=False)
        self.compute_loss(y=y, y_pred=y_pred)
        for metric in self.metrics:
            if metric.name != "loss":
                metric.update_state(y, y_pred)
        return {metric.name: metric.result() for metric in self.metrics}


class Gan(keras.Model):
    """A generator and a discriminator, each with its own optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = keras.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(6)])
        self.discriminator = keras.Sequential([layers.Dense(4, activation="tanh"), layers.Dense(1)])
        self.seed = keras.random.SeedGenerator(5)
        self.g_loss, self.d_loss = keras.metrics.Mean("g_loss"), keras.metrics.Mean("d_loss")

    def compile(self, g_optimizer: Any, d_optimizer: Any) -> None:
        super().compile(optimizer=g_optimizer)  # else Keras makes one that nobody uses
        self.g_optimizer, self.d_optimizer = g_optimizer, d_optimizer
        self.loss_fn = keras.losses.BinaryCrossentropy(from_logits=True)

    def build(self, shape: Any) -> None:
        self.generator.build((None, 2))
        self.discriminator.build((None, 6))
        self.g_optimizer.build(self.generator.trainable_variables)
        self.d_optimizer.build(self.discriminator.trainable_variables)

    def call(self, x: Any) -> Any:
        return self.discriminator(x)

    @property
    def metrics(self) -> list[Any]:
        return [self.g_loss, self.d_loss]

    def train_step(self, real: Any) -> dict[str, Any]:
        rows = ops.shape(real)[0]
        noise = keras.random.normal((rows, 2), seed=self.seed)
        both = ops.concatenate([self.generator(noise), real])
        labels = ops.concatenate([ops.ones((rows, 1)), ops.zeros((rows, 1))])
        with tf.GradientTape() as tape:
            d_loss = self.loss_fn(labels, self.discriminator(both))
        variables = self.discriminator.trainable_variables
        gradients = tape.gradient(d_loss, variables)
        self.d_optimizer.apply_gradients(zip(gradients, variables, strict=True))
        with tf.GradientTape() as tape:
            fakes = self.discriminator(self.generator(noise))
            g_loss = self.loss_fn(ops.zeros((rows, 1)), fakes)
        variables = self.generator.trainable_variables
        gradients = tape.gradient(g_loss, variables)
        self.g_optimizer.apply_gradients(zip(gradients, variables, strict=True))
        self.d_loss.update_state(d_loss)
        self.g_loss.update_state(g_loss)
        return {"d_loss": self.d_loss.result(), "g_loss": self.g_loss.result()}


def _own(kind: type, optimizer: Any = models.momentum) -> models.Build:
    def build() -> keras.Model:
        model = kind(
            [
                keras.Input((data.FEATURES,)),
                layers.Dense(4, activation="tanh"),
                layers.Dense(data.CLASSES, activation="softmax"),
            ]
        )
        return models.compiled(model, optimizer, weighted_metrics=None)

    return build


def _scheduled() -> Any:
    rate = keras.optimizers.schedules.ExponentialDecay(0.1, decay_steps=2, decay_rate=0.7)
    return keras.optimizers.SGD(rate)


def _own_alone(kind: type, optimizer: Any = models.momentum) -> models.Build:
    """A model whose step tracks nothing: metrics that nobody updates have no result in Keras."""

    def build() -> keras.Model:
        layer = layers.Dense(data.CLASSES, activation="softmax")
        model = kind([keras.Input((data.FEATURES,)), layer])
        model.compile(optimizer(), "sparse_categorical_crossentropy")
        return model

    return build


def _normalized() -> keras.Model:
    """Its gradients cross from replica to replica, which hold unequal numbers of rows."""
    outputs = layers.Dense(data.CLASSES, activation="softmax")
    model = Costly([
        keras.Input((data.FEATURES,)), layers.Dense(4, activation="tanh"),
        layers.BatchNormalization(synchronized=True), outputs,
    ])
    model.compile(models.momentum(), "sparse_categorical_crossentropy")
    return model


def _gan() -> keras.Model:
    model = Gan()
    model.compile(keras.optimizers.Adam(0.02), keras.optimizers.Adam(0.03, clipnorm=0.1))
    model.build((None, data.FEATURES))
    return model


# Batches that all replicas divide alike: the means are those of the whole batch then.
_EVEN = {"batch_size": 11}

ROWS = (
    Case("train_step calls super().train_step", _own(Supered), data.plain, worlds=NO_THIRD_WORKER),
    Case(
        name="train_step of its own",
        build=_own(OwnStep, lambda: keras.optimizers.Adam(0.02, clipnorm=0.1)),
        data=data.plain,
        fit=_EVEN,
        worlds=WORLDS,
    ),
    Case("test_step of its own", _own(OwnTest), data.plain, then=BOTH),
    Case("train_step that returns values of its own", _own_alone(RawLogs), data.plain, then=(),
         fit=_EVEN),
    Case("train_step that returns a value by a metric's name", _own_alone(OwnNames), data.plain,
         then=(), fit=_EVEN),
    Case("train_step with a loss for each row", _own_alone(SummedRows), data.plain, then=()),
    Case("train_step with synchronized BatchNormalization", _normalized, data.plain, then=()),
    Case("train_step with schedule that returns values", _own_alone(RawLogs, _scheduled),
         data.plain, then=(), fit=_EVEN, worlds=("2",)),
    Case(
        name="GAN with two optimizers",
        build=_gan,
        data=lambda: {"x": data.features()},
        fit=_EVEN,
        then=(),
        worlds=WORLDS,
    ),
)
