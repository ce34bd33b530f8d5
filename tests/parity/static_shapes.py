"""Rows: every batch padded to one shape (`static_shapes=True`)."""

from __future__ import annotations

import functools
from typing import Any

import keras
import tensorflow as tf

from parity import data, models
from parity.case import BOTH, WORLDS, Case

layers = keras.layers
_case = functools.partial(Case, static_shapes=True, then=BOTH)


def _adam() -> Any:
    return keras.optimizers.Adam(0.02, global_clipnorm=0.1)


def _synchronized() -> Any:
    return layers.BatchNormalization(synchronized=True)


def _reduced(reduction: str | None) -> dict[str, Any]:
    return {"loss": keras.losses.SparseCategoricalCrossentropy(reduction=reduction)}


def _two_outputs() -> keras.Model:
    x = keras.Input((data.FEATURES,))
    hidden = layers.Dense(4, activation="tanh")(x)
    outputs = {
        "number": layers.Dense(1, name="number")(hidden),
        "class": layers.Dense(data.CLASSES, activation="softmax", name="class")(hidden),
    }
    losses = {"number": "mse", "class": "sparse_categorical_crossentropy"}
    metrics = {"number": ["mae"], "class": ["accuracy"]}
    return models.compiled(
        keras.Model(x, outputs), loss=losses, metrics=metrics, weighted_metrics=None
    )


def _curves() -> dict[str, Any]:
    return {
        "metrics": [
            keras.metrics.AUC(num_thresholds=20, name="auc"),
            keras.metrics.Precision(name="precision"),
            keras.metrics.BinaryAccuracy(name="accuracy"),
        ],
        "weighted_metrics": [keras.metrics.AUC(num_thresholds=20, name="weighted_auc")],
    }


def _binary() -> keras.Model:
    model = keras.Sequential(
        [
            keras.Input((data.FEATURES,)),
            layers.Dense(4, activation="tanh"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )
    return models.compiled(model, made=_curves, loss="binary_crossentropy")


def _binary_data() -> dict[str, Any]:
    y = data.labels(data.ROWS, 1) % 2
    return {"x": data.features(), "y": y, "sample_weight": data.weights()}


def _regularized() -> Any:
    return layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l2")


def _dataset(rows: int = data.ROWS) -> dict[str, Any]:
    arrays = (data.features(rows), data.labels(rows), data.weights(rows))
    return {"x": tf.data.Dataset.from_tensor_slices(arrays).batch(5).prefetch(1)}


def _three_inputs() -> dict[str, Any]:
    return data.in_batches(7, 5, 1, 7, 2, x=data.features(), y=data.labels())


ROWS = (
    _case(
        "static: uneven last batch, dropout, synchronized normalization, clipping",
        models.mlp(_adam, lambda: layers.Dropout(0.3), _synchronized),
        data.plain,
        worlds=WORLDS,
        quick=True,
    ),
    _case(
        "static: batches smaller than the replicas",
        models.mlp(_adam, lambda: layers.Dropout(0.3), _synchronized),
        lambda: {"x": data.features(7), "y": data.labels(7)},
        fit={"batch_size": 1},
        worlds=WORLDS,
    ),
    _case(
        "static: full batches",
        models.mlp(_adam, lambda: layers.Dropout(0.3), _synchronized),
        lambda: {"x": data.features(16), "y": data.labels(16)},
        fit={"batch_size": 4},
        worlds=("2",),
    ),
    _case(
        "static: fewer examples than a batch has",
        models.mlp(_adam, lambda: layers.Dropout(0.3)),
        lambda: {"x": data.features(3), "y": data.labels(3)},
        fit={"batch_size": 32},
    ),
    _case("static: dataset with weights", models.mlp(weighted_metrics=["accuracy"]), _dataset),
    _case("static: batches of several sizes", models.mlp(_adam, _synchronized), _three_inputs),
    _case("static: binary metrics, weighted and not", _binary, _binary_data, quick=True),
    _case("static: mask", models.tagger(_adam, models.recurrent), data.tagged, quick=True),
    _case(
        "static: mask, sample weights, sum",
        models.tagger(weighted_metrics=["accuracy"], made=lambda: _reduced("sum")),
        lambda: data.tagged(sample_weight=data.weights(data.ROWS, data.STEPS)),
    ),
    _case(
        "static: mask, recurrent dropout, synchronized normalization",
        models.tagger(
            _adam, lambda: layers.LSTM(3, return_sequences=True, dropout=0.2), _synchronized
        ),
        data.tagged,
    ),
    *(
        _case(
            f"static: reduction {reduction}",
            models.mlp(_adam, made=functools.partial(_reduced, reduction)),
            lambda: data.plain(sample_weight=data.weights()),
            then=("evaluate",),
            worlds=("2", "2 workers") if reduction == "mean_with_sample_weight" else ("2",),
        )
        for reduction in ("sum", "mean", "mean_with_sample_weight", "sum_over_batch_size", None)
    ),
    _case("static: embedding", models.bag_of_words(_adam), data.words),
    _case("static: regularizers of weights and activity", models.mlp(_adam, _regularized),
          data.plain),
    _case("static: two outputs", _two_outputs, lambda: {
        "x": data.features(), "y": {"number": data.numbers(), "class": data.labels()},
    }),
    _case(
        "static: noise and validation",
        models.mlp(_adam, lambda: layers.GaussianNoise(0.3), weighted_metrics=["accuracy"]),
        data.plain,
        fit={
            "validation_data": (data.features(9), data.labels(9), data.weights(9)),
            "validation_batch_size": 4,
        },
        then=(),
    ),
    _case("static: jit_compile", models.mlp(_adam, lambda: layers.Dropout(0.3), jit_compile=True),
          data.plain, worlds=("2", "2 workers")),
    _case("static: jit_compile, mask", models.tagger(_adam, jit_compile=True), data.tagged,
          worlds=("2", "2 workers")),
    _case("static: run_eagerly", models.mlp(_adam, _synchronized, run_eagerly=True), data.plain,
          worlds=("2",)),
    _case("static: accumulation, steps_per_execution", models.mlp(
        lambda: keras.optimizers.Adam(0.02, gradient_accumulation_steps=2), steps_per_execution=3,
    ), data.plain, worlds=("2", "2 workers")),
)
