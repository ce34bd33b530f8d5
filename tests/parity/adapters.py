"""Rows: adapters (LoRA) beside frozen weights, which may be rounded to int8 or int4.

A layer that is rounded takes its inputs to int8 too, each row by its own largest number, so a
share of the rows is rounded as all of them are. Rounded weights are frozen and adapters are
trained; where a layer is rounded after it got its adapter, Keras keeps the adapter as it was.

Keras makes adapters in float32, in a model of float64 too: so rows agree to float32's rounding, and
norms of all gradients, which stock Keras cannot take of both, are of a model in float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from parity import data, models
from parity.case import Api, Case

layers = keras.layers
_TOLERANCE, _TOLERANCE_16 = 1e-5, 6e-2  # of float32, and of bfloat16 as in precision.py


def _adam() -> Any:
    return keras.optimizers.AdamW(0.05, global_clipnorm=0.5)


def _adapted(*steps: str, optimizer: Callable[[], Any] = models.momentum) -> Callable[[], Any]:
    """Two dense layers, of which the first is changed by these steps, and all but it is frozen."""

    def build() -> keras.Model:
        model = keras.Sequential(
            [
                keras.Input((data.FEATURES,)),
                layers.Dense(8, activation="tanh", name="adapted"),
                layers.Dense(data.CLASSES, activation="softmax", name="head"),
            ]
        )
        _change(model.get_layer("adapted"), steps)
        return models.compiled(model, optimizer)

    return build


def _change(layer: Any, steps: tuple[str, ...]) -> None:
    for step in steps:
        if step == "lora":
            layer.enable_lora(2)
            # Both factors, since one of them begins with zeros, which would hide the other.
            drawn = np.random.default_rng(len(layer.name)).normal(size=layer.lora_kernel_b.shape)
            layer.lora_kernel_b.assign(0.1 * drawn)
        else:
            layer.quantize(step)


def _attention() -> Any:
    """An embedding, attention and a projection, all with adapters, as large models have them."""
    words = keras.Input((data.STEPS,), dtype="int32")
    table = layers.Embedding(data.TOKENS, 8, mask_zero=True)
    x = table(words)
    attention = layers.MultiHeadAttention(2, 4)
    x = layers.LayerNormalization()(x + attention(x, x))
    project = layers.EinsumDense("abc,cd->abd", output_shape=(None, 8), bias_axes="d")
    x = layers.GlobalAveragePooling1D()(project(x))
    model = keras.Model(words, layers.Dense(data.CLASSES, activation="softmax")(x))
    table.enable_lora(2)
    project.enable_lora(2)
    for dense in (attention.query_dense, attention.value_dense):
        dense.enable_lora(2)
    return models.compiled(model)


def _rematerialized() -> Any:
    with keras.RematScope(mode="activations"):
        return _adapted("lora")()


def _in_bfloat16(*steps: str) -> Callable[[], Any]:
    def build() -> keras.Model:
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy("mixed_bfloat16")
        try:
            return _adapted(*steps)()
        finally:
            keras.config.set_dtype_policy(policy)

    return build


def _frozen_and_thawed(model: Any, arguments: Mapping[str, Any], api: Api) -> list[Any]:
    """Trains the adapter alone, then the head with it, then the head alone."""
    histories = []
    for adapter, head in ((True, False), (True, True), (False, True)):
        model.get_layer("adapted").trainable = adapter
        model.get_layer("head").trainable = head
        with api.scope():
            models.compiled(model)
        histories.append(api.fit(model, **arguments))
    return histories


def _only_adapters_train(model: Any) -> None:
    trained = model.get_layer("adapted").trainable_weights
    assert sorted(weight.path.rpartition("/")[2] for weight in trained) == [
        "bias", "lora_kernel_a", "lora_kernel_b",
    ]  # fmt: skip


def _words() -> dict[str, Any]:
    return {"x": data.tokens(), "y": data.labels()}


_ROWS = (
    Case(
        "LoRA", _adapted("lora"), data.plain, check=_only_adapters_train, then=("predict",),
        quick=True, worlds=("2", "4", "2 workers"),
    ),
    Case(
        "LoRA, AdamW, global_clipnorm", _adapted("lora", optimizer=_adam), data.plain,
        floatx="float32", tolerance=1e-3,
    ),
    Case("LoRA of an embedding, attention and EinsumDense", _attention, _words),
    Case(
        "LoRA on int8", _adapted("int8", "lora"), data.plain, check=_only_adapters_train,
        then=("predict",), worlds=("2", "4", "2 workers"),
    ),
    Case("LoRA, rounded to int8 later", _adapted("lora", "int8"), data.plain, then=("predict",)),
    Case("LoRA on int4", _adapted("int4", "lora"), data.plain, check=_only_adapters_train),
    Case("LoRA, rounded to int4 later", _adapted("lora", "int4"), data.plain),
    Case(
        "LoRA, frozen and thawed between fits", _adapted("lora"), data.plain,
        program=_frozen_and_thawed,
    ),
    Case("LoRA, rematerialized", _rematerialized, data.plain, plain=_adapted("lora")),
    Case(
        "LoRA on int8, mixed_bfloat16", _in_bfloat16("int8", "lora"), data.plain,
        floatx="float32", tolerance=_TOLERANCE_16,
    ),
)  # fmt: skip
ROWS = tuple(
    dataclasses.replace(row, tolerance=max(row.tolerance, _TOLERANCE)) for row in _ROWS
)
