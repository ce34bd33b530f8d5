"""Rows: activations that are computed anew in the backward pass, by `RematScope` and `remat`.

Of the scope's modes, "full", "list_of_layers" and "larger_than" do not run in stock Keras 3.15 on
TensorFlow, on one device either: they hand a layer's whole `call` to `tf.recompute_grad`, whose
custom gradient takes no keyword arguments while a function is traced, and Keras always passes
`training=`. So tfdist has to refuse them as well.

What is computed anew is computed from the same numbers, so one device trains the models without it.
"""

from __future__ import annotations

from typing import Any

import keras

from parity import data, models
from parity.case import NO_THIRD_WORKER, Case

layers = keras.layers


def _in_scope(mode: str | None, **options: Any) -> models.Build:
    """An MLP whose layers are called in a `RematScope`."""

    def build() -> keras.Model:
        with keras.RematScope(mode=mode, output_size_threshold=1):
            inputs = keras.Input((data.FEATURES,))
            hidden = layers.Dense(4, activation="tanh")(inputs)
            hidden = layers.Dense(4, activation="gelu")(hidden)
            outputs = layers.Dense(data.CLASSES, activation="softmax")(hidden)
            model = keras.Model(inputs, outputs)
        return models.compiled(model, **options)

    return build


class Body(layers.Layer):
    """A layer that keeps nothing of what its two dense layers compute."""

    def build(self, shape: Any) -> None:
        self._up, self._down = layers.Dense(8, activation="tanh"), layers.Dense(4)
        self._up.build(shape)
        self._down.build((*shape[:-1], 8))

    def call(self, inputs: Any) -> Any:
        return keras.remat(self._both)(inputs)

    def _both(self, inputs: Any) -> Any:
        return self._down(self._up(inputs))


class _KeptBody(Body):
    """The same layer, which keeps all of it."""

    def call(self, inputs: Any) -> Any:
        return self._both(inputs)


def _adam() -> Any:
    return keras.optimizers.Adam(0.05, global_clipnorm=0.1)


ROWS = (
    Case(
        name="RematScope of activations",
        build=_in_scope("activations"),
        plain=_in_scope(None),
        data=data.plain,
        quick=True,
    ),
    Case(
        name="RematScope of activations, jit_compile",
        build=_in_scope("activations", jit_compile=True),
        plain=_in_scope(None, jit_compile=True),
        data=data.plain,
    ),
    *(
        Case(f"RematScope of {mode}, refused", _in_scope(mode), data.plain, refused=True)
        for mode in ("full", "larger_than")
    ),
    Case(
        name="keras.remat of two layers",
        build=models.mlp(models.momentum, Body),
        plain=models.mlp(models.momentum, _KeptBody),
        data=data.plain,
        worlds=NO_THIRD_WORKER,
    ),
    Case(
        name="keras.remat of two layers, clipping",
        build=models.mlp(_adam, Body),
        plain=models.mlp(_adam, _KeptBody),
        data=data.plain,
    ),
)
