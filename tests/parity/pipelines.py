"""Rows: datasets whose examples are made one by one, each worker making its own rows only.

`PIPELINES` are functions of the examples, numbered; tests/data/test_own_rows.py ensures that they
can be cut.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from parity import data, models
from parity.case import BOTH, WORLDS, Case

layers = keras.layers
_WORKERS = ("2 workers", "3 workers")


def _example(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    return tf.gather(data.features(), number), tf.gather(data.labels(), number)


def _numbers() -> tf.data.Dataset:
    return tf.data.Dataset.range(data.ROWS)


def _sentence(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    words = tf.gather(data.tokens(), number)
    return tf.boolean_mask(words, words > 0), tf.gather(data.labels(), number)


def _side_by_side() -> tf.data.Dataset:
    return tf.data.Dataset.zip(
        (
            _numbers().map(lambda number: _example(number)[0]),
            _numbers().map(lambda number: _example(number)[1]),
        )
    )


PIPELINES: dict[str, Callable[[], tf.data.Dataset]] = {
    "an uneven end": lambda: _numbers().map(_example).batch(7),
    "each pass in another order": (
        lambda: _numbers().shuffle(30, seed=4).map(_example, tf.data.AUTOTUNE).batch(7).prefetch(1)
    ),
    "each pass in one order, smaller batches left out": (
        lambda: _numbers().shuffle(30, seed=4, reshuffle_each_iteration=False).map(_example)
        .batch(5, drop_remainder=True)
    ),
    "some left out": (  # see data.of_known_length
        lambda: _numbers().filter(lambda i: i % 5 > 0).map(_example).batch(4)
        .apply(tf.data.experimental.assert_cardinality(5))
    ),
    "repeated examples": lambda: _numbers().shuffle(9, seed=1).map(_example).repeat().batch(4),
    "repeated batches": lambda: _numbers().map(_example).batch(7).repeat(),
    "kept numbers": lambda: _numbers().shuffle(9, seed=1).cache().map(_example).batch(7),
    "padded sentences": (
        lambda: _numbers().map(_sentence).padded_batch(7, padded_shapes=([data.STEPS], []))
    ),
    "side by side": lambda: _side_by_side().batch(7),
}  # fmt: skip


def _words() -> keras.Model:
    return models.compiled(
        keras.Sequential(
            [
                layers.Embedding(data.TOKENS, 4, mask_zero=True),
                layers.LSTM(3),
                layers.Dense(data.CLASSES, activation="softmax"),
            ]
        )
    )


class Rows(tfdist.RowsDataset):
    """The same examples, each of which can be asked for."""

    def __init__(self) -> None:
        super().__init__(num_rows=data.ROWS, batch_size=7)

    def get_rows(self, indices: np.ndarray) -> Any:
        """Returns features and labels."""
        return data.features()[indices], data.labels()[indices]


def _row(name: str) -> Case:
    is_endless = name.startswith("repeated")
    dropout = functools.partial(layers.Dropout, 0.3, seed=2)
    return Case(
        name=f"made by maps: {name}",
        build=_words if "sentences" in name else models.mlp(models.momentum, dropout),
        data=lambda: {"x": PIPELINES[name]()},
        fit={"epochs": 3, "steps_per_epoch": 3 if is_endless else None},
        then=() if is_endless else BOTH,
        worlds=_WORKERS,
    )


ROWS = (
    *[_row(name) for name in PIPELINES],
    Case(
        name="rows that are asked for, weights of classes",
        build=models.mlp(models.momentum, functools.partial(layers.Dropout, 0.3, seed=2)),
        data=lambda: {"x": Rows()},
        fit={"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
        then=BOTH,
        worlds=("2", *_WORKERS),
    ),
    Case(
        name="made by maps: weights of classes",
        build=models.mlp(),
        data=lambda: {"x": PIPELINES["an uneven end"]()},
        fit={"class_weight": {0: 1.0, 1: 2.0, 2: 0.5}},
        worlds=WORLDS,
    ),
)
