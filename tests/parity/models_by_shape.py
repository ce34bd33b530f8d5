"""Rows: models by how they are put together, built, loaded and trained again."""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Mapping
from typing import Any

import keras

from parity import data, models
from parity.case import BOTH, NO_THIRD_WORKER, WORLDS, Api, Case

layers = keras.layers
_case = functools.partial(Case, then=BOTH)
History = Any


class Subclassed(keras.Model):
    """A subclass that uses one layer twice, and builds when it sees data."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.first = layers.Dense(6, activation="tanh")
        self.shared = layers.Dense(6, activation="tanh")
        self.dropout = layers.Dropout(0.2)
        self.last = layers.Dense(data.CLASSES, activation="softmax")

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.shared(self.first(x))
        return self.last(self.dropout(self.shared(x), training=training))


def _subclassed() -> keras.Model:
    return models.compiled(Subclassed())


def _lazy() -> keras.Model:
    """A Sequential without an Input."""
    return models.compiled(
        keras.Sequential(
            [layers.Dense(4, activation="tanh"), layers.Dense(data.CLASSES, activation="softmax")]
        ),
        lambda: keras.optimizers.Adam(0.02),
        metrics=["accuracy", "sparse_categorical_crossentropy"],
    )


def _nested() -> keras.Model:
    """A model in a model, with a shared layer and two inputs."""
    inner_input = keras.Input((data.FEATURES,))
    inner = keras.Model(
        inner_input, layers.Dense(4, activation="tanh", kernel_regularizer="l2")(inner_input)
    )
    a, b = keras.Input((data.FEATURES,), name="a"), keras.Input((data.FEATURES,), name="b")
    shared = layers.Dense(3, activation="tanh")
    joined = layers.Concatenate()([shared(inner(a)), shared(inner(b))])
    outputs = layers.Dense(data.CLASSES, activation="softmax")(joined)
    return models.compiled(keras.Model({"a": a, "b": b}, outputs))


def _two_inputs() -> dict[str, Any]:
    x = data.features()
    return {"x": {"a": x, "b": x[::-1].copy()}, "y": data.labels()}


def _partly_frozen() -> keras.Model:
    model = models.mlp(models.momentum, lambda: layers.Dense(4, name="frozen"))()
    model.get_layer("frozen").trainable = False
    return models.compiled(model, weighted_metrics=None)


def twice(model: Any, arguments: Mapping[str, Any], api: Api) -> list[History]:
    """Fits twice; the second time goes on where the first ended."""
    first = api.fit(model, **arguments)
    again = {**arguments, "initial_epoch": 2, "epochs": 4}
    return [_kept(first), api.fit(model, **again)]


def recompiled(model: Any, arguments: Mapping[str, Any], api: Api) -> list[History]:
    """Fits, compiles anew with another loss and optimizer, and fits again."""
    first = _kept(api.fit(model, **arguments))
    with api.scope():
        model.compile(keras.optimizers.Adam(0.02, clipnorm=0.1), "mse", metrics=["mae"])
    y = keras.ops.convert_to_numpy(keras.ops.one_hot(arguments["y"], data.CLASSES))
    return [first, api.fit(model, **{**arguments, "y": y})]


def reloaded(model: Any, arguments: Mapping[str, Any], api: Api) -> list[History]:
    """Fits, saves, loads, and fits the loaded model, whose optimizer was saved too."""
    first = _kept(api.fit(model, **arguments))
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "model.keras")
        model.save(path)
        with api.scope():
            loaded = keras.models.load_model(path)
    return [first, api.fit(loaded, **arguments)]


def thawed(model: Any, arguments: Mapping[str, Any], api: Api) -> list[History]:
    """Fits with a frozen layer, then compiles anew and fits all."""
    model.layers[0].trainable = False
    with api.scope():
        models.compiled(model)
    first = _kept(api.fit(model, **arguments))
    model.layers[0].trainable = True
    with api.scope():
        models.compiled(model)
    return [first, api.fit(model, **arguments)]


class _Kept:
    """A history as it was: `fit` goes on writing into the model's own."""

    def __init__(self, history: Any) -> None:
        self.model, self.history = history.model, dict(history.history)


def _kept(history: Any) -> History:
    return _Kept(history)


ROWS = (
    _case("subclass with a shared layer", _subclassed, data.plain, worlds=NO_THIRD_WORKER),
    _case("Sequential without Input", _lazy, data.plain),
    _case("nested model, shared layer, two inputs", _nested, _two_inputs, worlds=WORLDS),
    _case("frozen layer", _partly_frozen, data.plain),
    _case("second fit", models.bag_of_words(), data.words, program=twice, worlds=NO_THIRD_WORKER),
    _case(
        name="second fit, Adam with accumulation and dropout",
        build=models.mlp(
            lambda: keras.optimizers.Adam(0.02, gradient_accumulation_steps=3),
            lambda: layers.Dropout(0.3),
        ),
        data=data.plain,
        program=twice,
    ),
    _case(
        name="compiled anew between fits",
        build=models.mlp(),
        data=data.plain,
        program=recompiled,
        then=(),
    ),
    _case("frozen, then thawed", models.mlp(), data.plain, program=thawed),
    _case(
        name="saved, loaded and trained on",
        build=models.mlp(
            lambda: keras.optimizers.Adam(0.02),
            lambda: layers.Dropout(0.3, seed=3),
            lambda: layers.BatchNormalization(synchronized=True),
        ),
        data=data.plain,
        program=reloaded,
    ),
)
