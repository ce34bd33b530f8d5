"""Rows: tables that are looked up once for all rows of a batch, as embeddings of positions are.

An optimizer that squares gradients tells one row of a gradient from two that add up to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parity import custom_steps, data, models
from parity.case import NO_THIRD_WORKER, Case

layers, ops = keras.layers, keras.ops
O = keras.optimizers  # noqa: E741  (a table reads better with short names)


class Positions(layers.Layer):
    """Adds a vector for each position of a sentence, as the examples of Keras do.

    Args:
        kind: "fixed": as many as the model says; "open": as many as the batch has; "alike":
            broadcast over the batch before they are looked up, so that they are rows of it.
    """

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__(**options)
        self.kind, self.table = kind, layers.Embedding(data.STEPS, 3)

    def call(self, x: Any) -> Any:
        steps = ops.shape(x)[1]
        positions = ops.arange(0, data.STEPS if self.kind == "fixed" else steps, 1)
        if self.kind == "alike":
            positions = ops.broadcast_to(positions, (ops.shape(x)[0], steps))
        return x + self.table(positions)


class OneTable(layers.Layer):
    """Looks words up, and what it adds to all of them, in one table."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.table = layers.Embedding(data.TOKENS, 3)

    def call(self, x: Any) -> Any:
        return self.table(x) + self.table(ops.arange(0, data.STEPS, 1))


class OwnStep(keras.Model):
    """A training step of its own."""

    train_step = custom_steps.OwnStep.train_step


def _sentences(
    optimizer: Callable[[], Any],
    kind: str = "fixed",
    model_class: type = keras.Model,
    steps: int | None = data.STEPS,
    **options: Any,
) -> models.Build:
    def build() -> keras.Model:
        words = keras.Input((steps,), dtype="int32")
        x = Positions(kind)(layers.Embedding(data.TOKENS, 3)(words))
        x = layers.GlobalAveragePooling1D()(layers.Dense(3, activation="tanh")(x))
        outputs = layers.Dense(data.CLASSES, activation="softmax")(x)
        return models.compiled(model_class(words, outputs), optimizer, **options)

    return build


def _one_table(model_class: type = keras.Model) -> keras.Model:
    words = keras.Input((data.STEPS,), dtype="int32")
    x = layers.Dense(4, activation="tanh")(layers.Flatten()(OneTable()(words)))
    outputs = layers.Dense(data.CLASSES, activation="softmax")(x)
    return models.compiled(model_class(words, outputs), lambda: O.Adam(0.05), weighted_metrics=None)


def _growing() -> dict[str, Any]:
    """Batches of sentences of several lengths, which no shape tells."""
    tokens, labels = data.tokens(), data.labels()
    cuts = ((0, 6, 2), (6, 13, 5), (13, 20, 1), (20, 22, 3))

    def batches() -> Any:
        for start, stop, steps in cuts:
            yield tokens[start:stop, :steps], labels[start:stop]

    signature = (
        tf.TensorSpec([None, None], tokens.dtype), tf.TensorSpec([None], labels.dtype),
    )
    return {"x": data.of_known_length(batches, signature, len(cuts))}


def _of_fixed_size() -> dict[str, Any]:
    rows = (data.tokens(20), data.labels(20))
    return {"x": tf.data.Dataset.from_tensor_slices(rows).batch(10, drop_remainder=True)}


def _not_a_number() -> dict[str, Any]:
    """Features of which one is NaN, in a batch that leaves a replica empty."""
    x = data.features(3)
    x[1, 0] = np.nan
    return {"x": x, "y": data.numbers(3)}


def _binned(**options: Any) -> models.Build:
    """Looks up a table by the numbers themselves, which are no tokens."""

    def build() -> keras.Model:
        inputs = keras.Input((data.FEATURES,))
        bins = layers.Discretization(bin_boundaries=[-0.5, 0.0, 0.5])(inputs[:, 1:2])
        x = layers.Flatten()(layers.Embedding(4, 3)(bins))
        outputs = layers.Dense(1)(layers.Concatenate()([inputs, x]))
        model = keras.Model(inputs, outputs)
        model.compile(O.Adafactor(0.05), "mse", **options)
        return model

    return build


def _adam() -> Any:
    return O.Adam(0.05)


_OPTIMIZERS: dict[str, Callable[[], Any]] = {
    "Adagrad": lambda: O.Adagrad(0.1),
    "RMSprop, clipnorm": lambda: O.RMSprop(0.02, clipnorm=0.05),
    "Adam, accumulation": lambda: O.Adam(0.05, gradient_accumulation_steps=2),
    "Nadam with loss scale": lambda: O.LossScaleOptimizer(O.Nadam(0.05), initial_scale=8.0),
}

ROWS = (
    Case(
        name="positions, Adam",
        build=_sentences(_adam),
        data=data.words,
        worlds=("2", "4", "2 workers", "3 workers"),
        quick=True,
    ),
    *(
        Case(f"positions, {name}", _sentences(optimizer), data.words, then=(), worlds=("2",))
        for name, optimizer in _OPTIMIZERS.items()
    ),
    Case(
        name="positions of sentences of open length",
        build=_sentences(_adam, "open", steps=None),
        data=_growing,
        worlds=("2", "2 workers"),
    ),
    # Where NaN reaches a table's state, Keras's Adafactor looks rows up by their places, of which
    # there are more if an empty replica's row is among them.
    *(
        Case(f"Adafactor, NaN and an empty replica, {kind}", _binned(**options), _not_a_number,
             batch_size=1, then=(), worlds=("2", "2 workers"))
        for kind, options in {"traced": {}, "run_eagerly": {"run_eagerly": True}}.items()
    ),
    Case("positions of each row", _sentences(_adam, "alike"), data.words, worlds=("2",)),
    Case("words and positions in one table", _one_table, data.words, worlds=NO_THIRD_WORKER),
    Case("words and positions in one table, train_step of its own", lambda: _one_table(OwnStep),
         data.words, fit={"batch_size": 11}, then=(), worlds=("2", "2 workers")),
    Case("positions, jit_compile", _sentences(_adam, jit_compile=True), data.words,
         worlds=("2", "2 workers")),
    Case("positions, run_eagerly", _sentences(_adam, run_eagerly=True), data.words,
         worlds=("2", "2 workers")),
    Case("positions, batches of fixed size", _sentences(_adam), _of_fixed_size, worlds=("2",)),
    *(
        Case(
            name=f"positions, train_step of its own, batches of fixed size, {kind}",
            build=_sentences(_adam, kind, OwnStep, weighted_metrics=None),
            data=_of_fixed_size,
            then=(),
            worlds=("2",),
        )
        for kind in ("fixed", "alike")
    ),
    Case("positions, static shapes", _sentences(_adam), data.words, static_shapes=True,
         worlds=("2", "2 workers")),
)
