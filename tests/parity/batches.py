"""Rows: batches of every size, datasets, varying length."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from parity import data, models
from parity.case import BOTH, WORLDS, Case

layers = keras.layers
_case = functools.partial(Case, then=BOTH)


def _sizes(*sizes: int) -> dict[str, Any]:
    return data.in_batches(*sizes, x=data.features(sum(sizes)), y=data.labels(sum(sizes)))


def _lengths() -> dict[str, Any]:
    """Batches of sentences that grow longer and shorter."""
    tokens, labels = data.tokens(), data.labels(data.ROWS, data.STEPS)
    cuts = ((0, 6, 2), (6, 13, 5), (13, 20, 1), (20, 22, 3))

    def batches() -> Any:
        for start, stop, steps in cuts:
            yield tokens[start:stop, :steps], labels[start:stop, :steps]

    signature = (
        tf.TensorSpec([None, None], tokens.dtype),
        tf.TensorSpec([None, None], labels.dtype),
    )
    return {"x": data.of_known_length(batches, signature, len(cuts))}


def _with_masking() -> keras.Model:
    """Sequences of vectors, of which some steps hold the value that stands for nothing."""
    model = keras.Sequential(
        [
            keras.Input((data.STEPS, 2)),
            layers.Masking(mask_value=0.0),
            layers.LSTM(3, return_sequences=True),
            layers.Dense(data.CLASSES, activation="softmax"),
        ]
    )
    return models.compiled(model)


def _masked_vectors() -> dict[str, Any]:
    x = data.features(data.ROWS, data.STEPS, 2)
    x[data.tokens() == 0] = 0.0
    return {"x": x, "y": data.labels(data.ROWS, data.STEPS)}


def _dataset() -> dict[str, Any]:
    arrays = (data.features(), data.labels(), data.weights())
    return {"x": tf.data.Dataset.from_tensor_slices(arrays).batch(5)}


ROWS = (
    # The gradient's rows follow the batch, and TensorFlow's collectives may not within one call.
    _case(
        name="embedding, smaller last batch, many steps a call",
        build=models.bag_of_words(lambda: keras.optimizers.Adam(0.05), steps_per_execution=50),
        data=data.words,
        batch_size=8,
        worlds=WORLDS,
    ),
    _case(
        name="uneven last batch",
        build=models.mlp(),
        data=data.plain,
        fit={"batch_size": 9},  # 9, 9, 4
        worlds=WORLDS,
        quick=True,
    ),
    _case(
        name="last batch of one, Adam with clipping",
        build=models.mlp(lambda: keras.optimizers.Adam(0.02, clipnorm=0.1)),
        data=data.plain,
        worlds=WORLDS,
        quick=True,
    ),
    _case(
        name="every batch smaller than the number of replicas",
        build=models.mlp(),
        data=lambda: {"x": data.features(7), "y": data.labels(7)},
        fit={"batch_size": 1},
        worlds=WORLDS,
    ),
    _case(
        name="first batch of odd size, then a larger one",
        build=models.mlp(),
        data=lambda: _sizes(3, 8, 5, 1, 6),
        worlds=WORLDS,
    ),
    _case("dataset with sample weights", models.mlp(weighted_metrics=["accuracy"]), _dataset),
    _case(
        name="sentences of varying length",
        build=models.tagger(models.momentum, models.recurrent, steps=None),
        data=_lengths,
        then=("evaluate",),  # outputs of unequal length do not make one array
        worlds=WORLDS,
    ),
    _case(
        name="sentences of varying length, LSTM, clipping",
        build=models.tagger(
            lambda: keras.optimizers.Adam(0.02, global_clipnorm=0.1),
            lambda: layers.LSTM(3, return_sequences=True, dropout=0.2),
            steps=None,
        ),
        data=_lengths,
        then=("evaluate",),
    ),
    _case("Masking layer", _with_masking, _masked_vectors, worlds=WORLDS),
    _case(
        name="validation data with uneven batches",
        build=models.mlp(weighted_metrics=["accuracy"]),
        data=data.plain,
        fit={
            "validation_data": (data.features(9), data.labels(9), data.weights(9)),
            "validation_batch_size": 4,
        },
        then=(),
    ),
    _case(
        name="validation split",
        build=models.mlp(),
        data=lambda: data.plain(sample_weight=data.weights()),
        fit={"validation_split": 0.3},
        then=(),
    ),
)
