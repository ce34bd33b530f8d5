"""Rows: losses that the model brings itself, and models with several outputs."""

from __future__ import annotations

from typing import Any

import keras

from parity import data, models
from parity.case import NO_THIRD_WORKER, WORLDS, Case

layers, ops = keras.layers, keras.ops


class ActivityPenalty(layers.Layer):
    """Adds the mean square of what goes through it to the loss."""

    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * ops.mean(ops.square(x)))
        return x


class RowPenalties(layers.Layer):
    """Adds a loss for each row, as layers with a CTC loss do: Keras takes their sum."""

    def call(self, x: Any) -> Any:
        self.add_loss(0.1 * ops.sum(ops.square(x), axis=-1))
        self.add_loss(0.01 * ops.mean(ops.square(x)))
        return x


class MeanPenalty(keras.Sequential):
    """Calls Keras's own `compute_loss` and adds a mean."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        return loss + ops.mean(ops.square(y_pred))


class OwnLoss(keras.Sequential):
    """Computes all of the loss itself, and has the signature without `training`."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None
    ) -> Any:
        return ops.mean(ops.square(y - y_pred)) + 0.1 * ops.mean(ops.abs(x))


class RowLosses(keras.Sequential):
    """Gives a loss for each row, as reduction None does."""

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        return ops.mean(ops.square(y - y_pred), axis=-1)


class TrackedPenalty(keras.Sequential):
    """Keeps a `Mean` of a scalar of its own."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.penalty = keras.metrics.Mean(name="penalty")

    def compute_loss(
        self, x: Any = None, y: Any = None, y_pred: Any = None, sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        penalty = ops.mean(ops.abs(y_pred))
        self.penalty.update_state(penalty)
        return super().compute_loss(x, y, y_pred, sample_weight, training) + penalty


def _own(kind: type) -> models.Build:
    def build() -> keras.Model:
        model = kind(
            [keras.Input((data.FEATURES,)), layers.Dense(4, activation="tanh"), layers.Dense(1)]
        )
        return models.compiled(model, loss="mse", metrics=["mae"])

    return build


def _two_outputs(**options: Any) -> models.Build:
    def build() -> keras.Model:
        inputs = keras.Input((data.FEATURES,))
        hidden = layers.Dense(4, activation="tanh", kernel_regularizer="l2")(inputs)
        a = layers.Dense(data.CLASSES, activation="softmax", name="a")(hidden)
        b = layers.Dense(1, name="b")(hidden)
        outputs = [a, b] if isinstance(options["loss"], list) else {"a": a, "b": b}
        model = keras.Model(inputs, outputs)
        model.compile(models.momentum(), **options)
        return model

    return build


def _by_name(**more: Any) -> dict[str, Any]:
    return {"x": data.features(), "y": {"a": data.labels(), "b": data.numbers()}, **more}


def _by_place(**more: Any) -> dict[str, Any]:
    return {"x": data.features(), "y": [data.labels(), data.numbers()], **more}


_DICT = {"a": "sparse_categorical_crossentropy", "b": "mse"}

ROWS = (
    Case(
        name="regularizers of kernel, bias and activity",
        build=models.mlp(
            models.momentum,
            lambda: layers.Dense(
                4, kernel_regularizer="l2", bias_regularizer="l2", activity_regularizer="l1l2"
            ),
            lambda: layers.ActivityRegularization(l2=0.1),
        ),
        data=data.plain,
        worlds=NO_THIRD_WORKER,
        quick=True,
    ),
    Case(
        name="regularizer of an embedding, mask",
        build=models.tagger(
            models.momentum,
            lambda: layers.SimpleRNN(3, return_sequences=True, recurrent_regularizer="l2"),
            lambda: layers.Dense(3, activity_regularizer="l2"),
        ),
        data=data.tagged,
    ),
    Case(
        name="constraints",
        build=models.mlp(
            models.momentum,
            lambda: layers.Dense(4, kernel_constraint="unit_norm", bias_constraint="non_neg"),
        ),
        data=data.plain,
        then=(),
    ),
    Case(
        name="add_loss twice with dropout between",
        build=models.mlp(
            models.momentum, ActivityPenalty, lambda: layers.Dropout(0.3), ActivityPenalty
        ),
        data=data.plain,
        worlds=WORLDS,
    ),
    Case(
        name="add_loss with synchronized BatchNormalization",
        build=models.mlp(
            models.momentum,
            ActivityPenalty,
            lambda: layers.BatchNormalization(synchronized=True),
            ActivityPenalty,
        ),
        data=data.plain,
        worlds=WORLDS,
    ),
    Case(
        name="add_loss of a loss for each row",
        build=models.regressor(lambda: keras.optimizers.SGD(0.01), RowPenalties),
        data=data.regression,
        worlds=NO_THIRD_WORKER,
    ),
    Case(
        name="add_loss alone, no loss in compile",
        build=models.regressor(models.momentum, ActivityPenalty, loss=None, metrics=None),
        data=lambda: {"x": data.features()},
    ),
    Case("compute_loss adds a mean", _own(MeanPenalty), data.regression, worlds=WORLDS),
    Case("compute_loss without training", _own(OwnLoss), data.regression),
    Case("compute_loss gives a value a row", _own(RowLosses), data.regression),
    Case("compute_loss updates a Mean by a scalar", _own(TrackedPenalty), data.regression),
    Case(
        name="dict of losses, loss_weights, metrics",
        build=_two_outputs(
            loss=_DICT,
            loss_weights={"a": 0.7, "b": 0.3},
            metrics={"a": ["accuracy"], "b": ["mae", "mse"]},
            weighted_metrics={"a": ["accuracy"]},
        ),
        data=_by_name,
        worlds=NO_THIRD_WORKER,
    ),
    Case(
        name="list of losses, sample weight for each output",
        build=_two_outputs(
            loss=["sparse_categorical_crossentropy", "mae"],
            loss_weights=[0.7, 0.3],
            weighted_metrics=[["accuracy"], ["mse"]],
        ),
        data=lambda: _by_place(sample_weight=[data.weights(), data.weights()[::-1].copy()]),
    ),
    Case(
        name="one loss for two outputs",
        build=_two_outputs(loss={"a": None, "b": "mse"}),
        data=_by_name,
    ),
    Case(
        name="two outputs, sum and mean_with_sample_weight",
        build=lambda: _two_outputs(
            loss={
                "a": keras.losses.SparseCategoricalCrossentropy(
                    reduction="mean_with_sample_weight"
                ),
                "b": keras.losses.MeanSquaredError(reduction="sum"),
            }
        )(),
        data=lambda: _by_name(sample_weight={"a": data.weights(), "b": data.weights()}),
    ),
)
