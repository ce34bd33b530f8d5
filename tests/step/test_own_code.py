"""Is a model's own code told from Keras's?"""

from __future__ import annotations

import functools
import re
from typing import Any

import keras
import pytest
import tensorflow as tf

from tfdist.compat import keras_internals
from tfdist.step.own_code import own_code, own_reductions

layers, ops = keras.layers, keras.ops


def _model(*own: Any, kind: Any = keras.Sequential, **compiled: Any) -> keras.Model:
    model = kind([keras.Input((3,)), *own, layers.Dense(1)])
    model.compile(**{"optimizer": "sgd", "loss": "mse", **compiled})
    rows = keras.KerasTensor((2, 3)), keras.KerasTensor((2, 1))
    keras_internals.symbolic_build(model, rows)  # which makes Keras's own metrics
    return model


class _Layer(layers.Layer):
    def call(self, x: Any) -> Any:
        return x


class OwnStep(keras.Sequential):
    def train_step(self, batch: Any) -> Any:
        return super().train_step(batch)


class _Renamed(layers.Dense):
    """Adds nothing to what Keras computes."""


class _Metric(keras.metrics.Mean):
    def update_state(self, *args: Any, **kwargs: Any) -> None:
        pass


def _distance(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(ops.abs(y_true - y_pred), axis=-1)


def _functional(operation: Any) -> keras.Model:
    x = keras.Input((3,))
    model = keras.Model(x, operation(layers.Dense(1)(x)))
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize(
    "build",
    [
        lambda: _model(layers.BatchNormalization(), metrics=["mae", "accuracy"]),
        lambda: _model(layers.Dense(2, activation=tf.nn.relu), _Renamed(2)),
        lambda: _model(layers.Dense(2, kernel_regularizer=lambda w: ops.sum(w))),
        lambda: _model(layers.Dense(2), loss=keras.losses.Huber()),
        lambda: _model(loss=keras.losses.mean_squared_error, metrics=[keras.metrics.AUC()]),
        lambda: _functional(lambda x: x + 1.0),
    ],
)
def test_parts_of_keras_are_none_of_the_models_own(build):
    assert own_code(build()) == []


@pytest.mark.parametrize(
    ("build", "named", "of_outputs"),
    [
        (lambda: _model(kind=OwnStep), "OwnStep.train_step", False),
        (lambda: _model(_Layer()), "_Layer.call", False),
        (lambda: _model(layers.Lambda(lambda x: x, name="own")), "the Lambda 'own'", False),
        (lambda: _model(layers.Dense(2, activation=lambda x: x, name="own")),
         "the activation of 'own'", False),
        (lambda: _model(loss=_distance), "the loss '_distance'", True),
        (lambda: _model(loss=functools.partial(_distance)), "the loss 'partial'", True),
        (lambda: _model(metrics=[_distance]), "the metric '_distance'", True),
        (lambda: _model(metrics=[_Metric()]), "_Metric.update_state", True),
        (lambda: _functional(lambda x: x - ops.mean(x, axis=0)),
         "the operation 'mean' of 'functional'", False),
    ],
)
def test_own_code_is_named(build, named, of_outputs):
    model = build()
    assert named in [re.sub(r"_\d+", "", piece) for piece in own_code(model)]
    assert (named in own_reductions(model)) is of_outputs
