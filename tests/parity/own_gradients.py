"""Rows: training steps that use gradients before they apply them."""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from parity import data
from parity.case import NO_THIRD_WORKER, Case

layers, ops = keras.layers, keras.ops


def _mean_loss(model: Any, x: Any, y: Any) -> Any:
    return ops.mean(keras.losses.sparse_categorical_crossentropy(y, model(x, training=True)))


class Clipped(keras.Sequential):
    """Clips by the norm of all gradients together; the table has an optimizer of its own."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        with tf.GradientTape() as tape:
            loss = _mean_loss(self, *batch)
        variables = self.trainable_variables
        gradients = tape.gradient(loss, variables)
        clipped, norm = tf.clip_by_global_norm(gradients, 0.1)
        pairs = list(zip(clipped, variables, strict=True))
        self.for_table.apply_gradients(pairs[:1])
        self.optimizer.apply_gradients(pairs[1:])
        return {"cost": loss, "norm": norm}


class SharpnessAware(keras.Sequential):
    """Takes the gradients where an ascent along the first ones leads (SAM)."""

    def train_step(self, batch: Any) -> dict[str, Any]:
        variables = self.trainable_variables
        with tf.GradientTape() as tape:
            loss = _mean_loss(self, *batch)
        gradients = tape.gradient(loss, variables)
        norm = tf.linalg.global_norm(gradients)
        ascent = [0.3 * gradient / norm for gradient in gradients]
        for variable, way in zip(variables, ascent, strict=True):
            variable.assign_add(way)
        with tf.GradientTape() as tape:
            there = _mean_loss(self, *batch)
        gradients = tape.gradient(there, variables)
        for variable, way in zip(variables, ascent, strict=True):
            variable.assign_sub(way)
        self.optimizer.apply_gradients(zip(gradients, variables, strict=True))
        return {"cost": loss, "there": there}


def _clipped() -> keras.Model:
    model = Clipped(
        [
            keras.Input((data.STEPS,), dtype="int32"),
            layers.Embedding(data.TOKENS, 3),
            layers.Flatten(),
            layers.Dense(data.CLASSES, activation="softmax"),
        ]
    )
    model.for_table = keras.optimizers.Adam(0.05)
    model.for_table.build(model.trainable_variables[:1])
    model.compile(keras.optimizers.SGD(0.3, momentum=0.9))
    model.optimizer.build(model.trainable_variables[1:])
    return model


def _sharpness_aware() -> keras.Model:
    model = SharpnessAware(
        [
            keras.Input((data.FEATURES,)),
            layers.Dense(4),
            layers.BatchNormalization(synchronized=True),
            layers.Dense(data.CLASSES, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.02))
    return model


ROWS = (
    Case("train_step clips by the norm of all gradients", _clipped, data.words, then=()),
    Case("train_step of SAM, synchronized BatchNormalization", _sharpness_aware, data.plain,
         then=(), worlds=NO_THIRD_WORKER),
)
