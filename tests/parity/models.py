"""The models of the rows: as small as they can be, since tracing them is what takes the time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras

from parity import data

Build = Callable[[], keras.Model]

layers = keras.layers
optimizers = keras.optimizers


def momentum() -> Any:
    """The optimizer where a row is about something else: its state shows what it was fed."""
    return optimizers.SGD(0.1, momentum=0.9)


def compiled(
    model: keras.Model, optimizer: Any = momentum, made: Any = dict, **options: Any
) -> keras.Model:
    """Compiles a classifier.

    Args:
        model: The model.
        optimizer: Makes the optimizer.
        made: Makes further arguments of `compile`: objects that each model needs new ones of.
        **options: Further arguments of `compile`: texts and numbers.
    """
    defaults = {"loss": "sparse_categorical_crossentropy", "metrics": ["accuracy"]}
    model.compile(
        **{"optimizer": optimizer(), "weighted_metrics": [], **defaults, **options, **made()}
    )
    return model


def mlp(optimizer: Any = momentum, *middle: Any, **options: Any) -> Build:
    """Two dense layers with layers between them, which `middle` makes."""

    def build() -> keras.Model:
        return compiled(
            keras.Sequential(
                [
                    keras.Input((data.FEATURES,)),
                    layers.Dense(4, activation="tanh"),
                    *[make() for make in middle],
                    layers.Dense(data.CLASSES, activation="softmax"),
                ]
            ),
            optimizer,
            **options,
        )

    return build


def regressor(optimizer: Any = momentum, *middle: Any, **options: Any) -> Build:
    """The same with one number as output."""

    def build() -> keras.Model:
        model = keras.Sequential(
            [
                keras.Input((data.FEATURES,)),
                layers.Dense(4, activation="tanh"),
                *[make() for make in middle],
                layers.Dense(1),
            ]
        )
        return compiled(model, optimizer, **{"loss": "mse", "metrics": ["mae"], **options})

    return build


def bag_of_words(optimizer: Any = momentum, **options: Any) -> Build:
    """An embedding, whose gradient is sparse, and two dense layers."""

    def build() -> keras.Model:
        model = keras.Sequential(
            [
                keras.Input((data.STEPS,), dtype="int32"),
                layers.Embedding(data.TOKENS, 3),
                layers.Flatten(),
                layers.Dense(4, activation="tanh"),
                layers.Dense(data.CLASSES, activation="softmax"),
            ]
        )
        return compiled(model, optimizer, **options)

    return build


def tagger(optimizer: Any = momentum, *middle: Any, steps: int | None = data.STEPS, **options: Any):
    """One class a word of a masked sentence; tracing a layer with a state takes twice as long."""

    def build() -> keras.Model:
        middles = [make() for make in middle] or [layers.Dense(3, activation="tanh")]
        model = keras.Sequential(
            [
                keras.Input((steps,), dtype="int32"),
                layers.Embedding(data.TOKENS, 3, mask_zero=True),
                *middles,
                layers.Dense(data.CLASSES, activation="softmax"),
            ]
        )
        return compiled(model, optimizer, **options)

    return build


def recurrent() -> Any:
    """The layer of rows that are about a state which goes from step to step."""
    return layers.SimpleRNN(3, return_sequences=True)


def classifier_of_images(*middle: Any, **options: Any) -> Build:
    """Layers that take images, and one dense layer."""

    def build() -> keras.Model:
        model = keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                *[make() for make in middle],
                layers.Flatten(),
                layers.Dense(data.CLASSES, activation="softmax"),
            ]
        )
        return compiled(model, **options)

    return build
