"""Rows: layers that look beyond an example, have states, or hand masks and sparse gradients on."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from parity import data, models
from parity.case import BOTH, NO_THIRD_WORKER, WORLDS, Case

layers, ops = keras.layers, keras.ops
_case = functools.partial(Case, then=BOTH)


def _sync(**options: Any) -> Any:
    return lambda: layers.BatchNormalization(synchronized=True, **options)


class CountingLayer(layers.Layer):
    """Counts its calls, and multiplies with what it has counted."""

    def build(self, shape: Any) -> None:
        self.calls = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="calls", dtype="float64"
        )

    def call(self, x: Any, training: bool = False) -> Any:
        if training:
            self.calls.assign_add(1.0)
        return x * (1 + 0.01 * self.calls)


class MovingMean(layers.Layer):
    """Keeps a moving mean over the batch: a state that is a mean of means under replicas."""

    def build(self, shape: Any) -> None:
        self.mean = self.add_weight(
            shape=(shape[-1],), initializer="zeros", trainable=False, name="mean"
        )

    def call(self, x: Any, training: bool = False) -> Any:
        return x - self.mean


class Attention(layers.Layer):
    """MultiHeadAttention over a masked sentence, with a residual and LayerNormalization."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.attention = layers.MultiHeadAttention(num_heads=2, key_dim=2, dropout=0.2)
        self.norm = layers.LayerNormalization()
        self.supports_masking = True

    def call(self, x: Any, training: bool = False) -> Any:
        return self.norm(x + self.attention(x, x, training=training))


class Lookup(layers.Layer):
    """Sums the vectors of a sentence's words; its gradient has a row for each word, or none."""

    def build(self, shape: Any) -> None:
        self.table = self.add_weight(shape=(data.TOKENS, 4), initializer="uniform", name="table")

    def call(self, x: Any) -> Any:
        places = tf.where(x > 0)
        vectors = tf.gather(self.table.value, tf.gather_nd(x, places))
        return tf.math.unsorted_segment_sum(vectors, places[:, 0], tf.shape(x)[0])


def _looked_up() -> keras.Model:
    words = keras.Input((data.STEPS,), dtype="int32")
    outputs = layers.Dense(data.CLASSES, activation="softmax")(Lookup()(words))
    return models.compiled(keras.Model(words, outputs), lambda: keras.optimizers.Adam(0.02))


def _words_of_few() -> dict[str, Any]:
    """No word in the first batch, in the second batch's first half and in all after it."""
    x = data.tokens()
    x[:11] = x[14:] = 0
    return {"x": x, "y": data.labels()}


def _images(*middle: Any, **options: Any) -> models.Build:
    return models.classifier_of_images(*middle, **options)


ROWS = (
    _case(
        name="synchronized BatchNormalization",
        build=models.mlp(models.momentum, _sync(momentum=0.7)),
        data=data.plain,
        worlds=WORLDS,
    ),
    _case(
        name="synchronized BatchNormalization, batches smaller than four replicas",
        build=models.mlp(models.momentum, _sync(momentum=0.7)),
        data=data.plain,
        fit={"batch_size": 3},
        worlds=("4", "3 workers"),
    ),
    _case(
        name="synchronized BatchNormalization of a masked sentence",
        build=models.tagger(
            models.momentum, _sync(), lambda: layers.GRU(3, return_sequences=True)
        ),
        data=data.tagged,
    ),
    _case(
        name="synchronized BatchNormalization, convolution, clipping, accumulation",
        build=_images(
            lambda: layers.Conv2D(3, 3, strides=2, use_bias=False),
            _sync(),
            lambda: layers.ReLU(),
            optimizer=lambda: keras.optimizers.Adam(
                0.02, clipnorm=0.1, gradient_accumulation_steps=3
            ),
        ),
        data=data.images,
    ),
    _case("lookup of no word at all", _looked_up, _words_of_few),
    _case(
        name="frozen BatchNormalization",
        build=models.mlp(models.momentum, lambda: layers.BatchNormalization(trainable=False)),
        data=data.plain,
    ),
    _case(
        name="LSTM of a masked sentence",
        build=models.tagger(
            lambda: keras.optimizers.Adam(0.02),
            lambda: layers.LSTM(3, return_sequences=True, recurrent_dropout=0.2),
        ),
        data=data.tagged,
    ),
    _case(
        name="bidirectional GRU",
        build=models.tagger(
            models.momentum,
            lambda: layers.Bidirectional(layers.GRU(3, return_sequences=True)),
            lambda: layers.TimeDistributed(layers.Dense(3)),
        ),
        data=data.tagged,
    ),
    _case(
        name="MultiHeadAttention",
        build=models.tagger(lambda: keras.optimizers.Adam(0.02), Attention),
        data=data.tagged,
        worlds=NO_THIRD_WORKER,
    ),
    _case(
        name="convolution, pooling, group and layer normalization",
        build=_images(
            lambda: layers.Conv2D(4, 3, strides=2),
            lambda: layers.GroupNormalization(2),
            lambda: layers.MaxPooling2D(),
            lambda: layers.LayerNormalization(),
        ),
        data=data.images,
    ),
    _case(
        name="unit normalization and spectral normalization",
        build=models.mlp(
            models.momentum,
            lambda: layers.SpectralNormalization(layers.Dense(4)),
            lambda: layers.UnitNormalization(),
        ),
        data=data.plain,
    ),
    _case(
        name="layer that counts its calls",
        build=models.mlp(models.momentum, CountingLayer),
        data=data.plain,
    ),
)
