"""Which models are trained?  Small ones with all kinds of layers, and larger ones to be timed."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfdist.cli.gpu_check.setting import Size

_CLASSES = 10


@dataclasses.dataclass(frozen=True)
class Case:
    """A model, and data for it.

    Attributes:
        make: Returns the model, not compiled, in Keras's current types.
        x: The inputs.
        y: The classes, int32.
        has_xla: Whether XLA can compile it on a GPU.
    """

    make: Callable[[], Any]
    x: np.ndarray
    y: np.ndarray
    has_xla: bool = True


def small_cases() -> dict[str, Case]:
    """Returns the models of the parity rows, by name.

    Their functions are smooth, since beside a kink rounding alone would give another gradient.
    """
    draw = np.random.default_rng(0)
    y = draw.integers(0, _CLASSES, 43).astype("int32")  # no multiple of anything
    images = draw.normal(size=[43, 8, 8, 3])
    words = draw.integers(0, 50, [43, 12]).astype("int32")
    signals = draw.normal(size=[43, 6, 5])
    return {
        "CNN": Case(lambda: cnn(pixels=8, width=8, depth=1), images, y),
        "transformer": Case(lambda: transformer(words=12, known=50, width=16, depth=1), words, y),
        # cuDNN has a kernel for it, which XLA has not.
        "LSTM": Case(_lstm, signals, y, has_xla=False),
    }


def timed_case(name: str, size: Size) -> Case:
    """Returns a model to be timed, "CNN" or "transformer", with the rows of one timing."""
    draw = np.random.default_rng(0)
    rows = size.batch * size.steps
    y = draw.integers(0, _CLASSES, rows).astype("int32")
    if name == "CNN":
        x = draw.random([rows, size.pixels, size.pixels, 3], dtype=np.float32)
        return Case(lambda: cnn(pixels=size.pixels, width=size.width, depth=size.depth), x, y)
    rows = max(1, size.batch // 4) * size.steps
    words = draw.integers(0, 8192, [rows, size.words]).astype("int32")
    wide, deep = 8 * size.width, 2 * size.depth
    return Case(
        lambda: transformer(words=size.words, known=8192, width=wide, depth=deep), words, y[:rows]
    )


def cnn(*, pixels: int, width: int, depth: int) -> Any:
    """Returns a residual network (He et al. 2016, arXiv:1512.03385) of three stages.

    Args:
        pixels: Of a side of an image.
        width: Channels of the first stage; later ones have twice as many.
        depth: Blocks of a stage.
    """
    layers = keras.layers

    def normalized(found: Any, channels: int, stride: int, size: int) -> Any:
        found = layers.Conv2D(channels, size, stride, padding="same", use_bias=False)(found)
        return layers.BatchNormalization(synchronized=True)(found)

    inputs = keras.Input((pixels, pixels, 3))
    found = layers.Activation("gelu")(normalized(inputs, width, 1, 3))
    for stage in range(3):
        channels = width * 2**stage
        for block in range(depth):
            stride = 2 if stage and not block else 1
            inner = layers.Activation("gelu")(normalized(found, channels, stride, 3))
            inner = normalized(inner, channels, 1, 3)
            if stride > 1:
                found = normalized(found, channels, stride, 1)
            found = layers.Activation("gelu")(layers.Add()([found, inner]))
    found = layers.GlobalAveragePooling2D()(found)
    return keras.Model(inputs, layers.Dense(_CLASSES, dtype=_full_precision())(found))


def transformer(*, words: int, known: int, width: int, depth: int) -> Any:
    """Returns a transformer that classifies texts, normalized before each of its parts.

    Args:
        words: Of a text.
        known: Different words.
        width: Numbers that stand for a word.
        depth: Blocks.
    """
    layers = keras.layers
    inputs = keras.Input((words,), dtype="int32")
    found = layers.Embedding(known, width)(inputs)
    heads = max(1, width // 64)
    for _ in range(depth):
        inner = layers.LayerNormalization()(found)
        inner = layers.MultiHeadAttention(heads, width // heads)(inner, inner, use_causal_mask=True)
        found = layers.Add()([found, inner])
        inner = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(found))
        found = layers.Add()([found, layers.Dense(width)(inner)])
    found = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(found))
    return keras.Model(inputs, layers.Dense(_CLASSES, dtype=_full_precision())(found))


def _lstm() -> Any:
    layers = keras.layers
    return keras.Sequential(
        [keras.Input((6, 5)), layers.LSTM(16, return_sequences=True), layers.LSTM(16),
         layers.Dense(_CLASSES, dtype=_full_precision())]
    )


def _full_precision() -> str:
    """Returns the type of the logits: that of the weights."""
    found: str = keras.config.dtype_policy().variable_dtype
    return found
