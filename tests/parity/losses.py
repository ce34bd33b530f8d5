"""Rows: losses, their reductions, sample and class weights, masks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parity import data, models
from parity.case import NO_THIRD_WORKER, WORLDS, Case

L = keras.losses
REDUCTIONS = ("sum", "sum_over_batch_size", "mean", "mean_with_sample_weight", None)
_WITH_DIVISORS = ("sum_over_batch_size", "mean_with_sample_weight")  # the others go by them


def _crossentropy(reduction: Any) -> Callable[[], dict[str, Any]]:
    return lambda: {"loss": L.SparseCategoricalCrossentropy(reduction=reduction)}


def _zeros(first: int, last: int) -> np.ndarray:
    """Weights that are zero in some rows: on whole replicas, and in a whole batch."""
    weights = data.weights()
    weights[first:last] = 0
    return weights


def _step_weights() -> np.ndarray:
    return data.weights(data.ROWS, data.STEPS)


def _scalar_loss(y_true: Any, y_pred: Any) -> Any:
    """A loss function that takes the mean itself."""
    return keras.ops.mean(keras.ops.square(y_true - y_pred))


def _ratio(y_true: Any, y_pred: Any) -> Any:
    """One number that is not made of means of rows."""
    ops = keras.ops
    return ops.sum(ops.square(y_true - y_pred)) / (1 + ops.sum(ops.abs(y_pred))) + ops.max(y_pred)


def _rowwise_loss(y_true: Any, y_pred: Any) -> Any:
    return keras.ops.mean(keras.ops.abs(y_true - y_pred), axis=-1)


class PowerLoss(L.Loss):
    def call(self, y_true: Any, y_pred: Any) -> Any:
        return keras.ops.mean(keras.ops.abs(y_true - y_pred) ** 3, axis=-1)


_by_reduction = [
    *(
        Case(
            name=f"reduction {reduction}, sample weights",
            build=models.mlp(made=_crossentropy(reduction)),
            data=lambda: data.plain(sample_weight=data.weights()),
            worlds=WORLDS if reduction in _WITH_DIVISORS else ("2",),
            quick=reduction == "sum_over_batch_size",
        )
        for reduction in REDUCTIONS
    ),
    *(
        Case(
            name=f"reduction {reduction}, mask",
            build=models.tagger(made=_crossentropy(reduction)),
            data=data.tagged,
            worlds=NO_THIRD_WORKER if reduction == "sum_over_batch_size" else ("2",),
        )
        for reduction in REDUCTIONS
    ),
    *(
        Case(
            name=f"reduction {reduction}, mask and step weights",
            build=models.tagger(
                made=_crossentropy(reduction), weighted_metrics=["accuracy"]
            ),
            data=lambda: data.tagged(sample_weight=_step_weights()),
            worlds=("2",),
        )
        for reduction in REDUCTIONS
    ),
]

_weights = [
    Case(
        name="sample weights zero on one replica",
        build=models.mlp(weighted_metrics=["accuracy"]),
        data=lambda: data.plain(sample_weight=_zeros(7, 11)),
        worlds=WORLDS,
    ),
    Case(
        name="sample weights zero in a whole batch, mean_with_sample_weight",
        build=models.mlp(
            made=_crossentropy("mean_with_sample_weight"), weighted_metrics=["accuracy"]
        ),
        data=lambda: data.plain(sample_weight=_zeros(7, 18)),
    ),
    Case(
        name="class weights",
        build=models.mlp(weighted_metrics=["accuracy"]),
        data=data.plain,
        fit={"class_weight": {0: 1.0, 1: 2.5, 2: 0.3}},
        quick=True,
        worlds=NO_THIRD_WORKER,
    ),
    Case(
        name="class weights of words, mask",
        build=models.tagger(weighted_metrics=["accuracy"]),
        data=data.tagged,
        fit={"class_weight": {0: 1.0, 1: 2.5, 2: 0.3}},
        refused=True,  # one weight a word, but Keras flattens them
        worlds=("2",),
    ),
    Case(
        name="sample weights for one of two dimensions of the loss",
        build=models.tagger(weighted_metrics=["accuracy"]),
        data=lambda: data.tagged(sample_weight=data.weights(data.ROWS, 1)),
    ),
    Case(
        name="sample weights per sentence, no mask",
        build=models.mlp(models.momentum, lambda: keras.layers.RepeatVector(5)),
        data=lambda: {
            "x": data.features(),
            "y": data.labels(data.ROWS, 5),
            "sample_weight": data.weights(),
        },
        refused=True,
        worlds=("2",),
    ),
]

_functions = [
    Case(
        name="loss function of rows",
        build=models.regressor(loss=_rowwise_loss),
        data=lambda: data.regression(sample_weight=data.weights()),
    ),
    Case(
        name="loss function that returns a scalar, sample weights",
        build=models.regressor(loss=_scalar_loss),
        data=lambda: data.regression(sample_weight=data.weights()),
        worlds=NO_THIRD_WORKER,
    ),
    Case(
        name="loss function that is no mean of rows",
        build=models.regressor(loss=_ratio, metrics=[_ratio, _scalar_loss]),
        data=data.regression,
        worlds=WORLDS,
    ),
    *(
        Case(
            name=f"loss {name} of the whole batch",
            build=models.mlp(made=lambda name=name: {"loss": getattr(L, name)()}),
            data=lambda: {"x": data.features(), "y": np.eye(data.CLASSES)[data.labels()]},
        )
        for name in ("Dice", "Tversky")
    ),
    Case(
        name="loss class of its own with sum",
        build=models.regressor(
            lambda: keras.optimizers.SGD(0.01),
            made=lambda: {"loss": PowerLoss(reduction="sum"), "metrics": [PowerLoss()]},
        ),
        data=data.regression,
    ),
]


def _mean_crossentropy(y_true: Any, y_pred: Any) -> Any:
    """One number of the whole batch, by a loss that looks for logits behind the outputs."""
    return keras.ops.mean(keras.losses.categorical_crossentropy(y_true, y_pred)) ** 2


def _of_logits(*, has_whole: bool = False) -> keras.Model:
    """Outputs whose logits Keras finds: by its own note, or by the operation that made them."""
    x = keras.Input((data.FEATURES,))
    outputs = {
        "sparse": keras.layers.Dense(data.CLASSES, activation="softmax", name="sparse")(x),
        "one_hot": keras.layers.Dense(data.CLASSES, activation=tf.nn.softmax, name="one_hot")(x),
        "bit": keras.layers.Dense(1, activation="sigmoid", name="bit")(x),
        "raw_bit": keras.layers.Dense(1, activation=tf.math.sigmoid, name="raw_bit")(x),
    }
    losses: dict[str, Any] = {
        "sparse": "sparse_categorical_crossentropy", "one_hot": "categorical_crossentropy",
        "bit": "binary_crossentropy", "raw_bit": "binary_crossentropy",
    }
    if has_whole:
        softmax = keras.layers.Dense(data.CLASSES, activation="softmax", name="whole")
        outputs, losses = {"whole": softmax(x)}, {"whole": _mean_crossentropy}
    metrics = {name: [loss] for name, loss in losses.items()}
    return models.compiled(
        keras.Model(x, outputs), lambda: keras.optimizers.SGD(0.001), loss=losses, metrics=metrics,
        weighted_metrics=None,
    )


def _far_apart(*, has_whole: bool = False) -> dict[str, Any]:
    """Features that are so large that probabilities round to 0 and 1."""
    one_hot, bit = np.eye(data.CLASSES)[data.labels()], data.labels(data.ROWS, 1) % 2
    y = {"sparse": data.labels(), "one_hot": one_hot, "bit": bit, "raw_bit": bit}
    return {"x": 60 * data.features(), "y": {"whole": one_hot} if has_whole else y}


_saturated = [
    # Apart: where a loss is not Keras's, an empty replica's row is kept, and its effects undone.
    Case("outputs that saturate", _of_logits, _far_apart, worlds=WORLDS),
    Case("outputs that saturate, a loss of one number", lambda: _of_logits(has_whole=True),
         lambda: _far_apart(has_whole=True), worlds=("2", "2 workers")),
    Case(
        name="outputs that saturate, jit_compile",
        build=models.mlp(lambda: keras.optimizers.SGD(0.001), jit_compile=True),
        data=lambda: {"x": 400 * data.features(), "y": data.labels()},
        worlds=("2",),
    ),
]


# Every loss that Keras ships, as one output each of one model: one trace instead of twenty.
# What a loss needs of its target, and of the output before it.
_NEEDS: dict[str, tuple[str, str]] = {
    "BinaryCrossentropy": ("bits", "sigmoid"),
    "BinaryFocalCrossentropy": ("bits", "sigmoid"),
    "CategoricalCrossentropy": ("one_hot", "softmax"),
    "CategoricalFocalCrossentropy": ("one_hot", "softmax"),
    "CategoricalGeneralizedCrossEntropy": ("classes", "softmax"),
    "CategoricalHinge": ("one_hot", "linear"),
    "Circle": ("classes", "linear"),
    "CosineSimilarity": ("numbers", "linear"),
    "Dice": ("bits", "sigmoid"),
    "Hinge": ("bits", "tanh"),
    "KLDivergence": ("one_hot", "softmax"),
    "MeanSquaredLogarithmicError": ("positive", "softplus"),
    "Poisson": ("positive", "softplus"),
    "SparseCategoricalCrossentropy": ("classes", "softmax"),
    "SquaredHinge": ("bits", "tanh"),
    "Tversky": ("bits", "sigmoid"),
}
# CTC has a target of its own form; Dice and Tversky are one number for the whole batch, and Circle
# compares the examples of a batch with each other.
_APART = ("CTC", "Dice", "Tversky", "Circle", "Loss")


def _targets() -> dict[str, np.ndarray]:
    classes = data.labels()
    return {
        "bits": (data.numbers(data.ROWS, data.CLASSES) > 0).astype("float64"),
        "one_hot": np.eye(data.CLASSES)[classes],
        "classes": classes,
        "numbers": data.numbers(data.ROWS, data.CLASSES),
        "positive": np.abs(data.numbers(data.ROWS, data.CLASSES)),
    }


def shipped() -> dict[str, type]:
    """Returns the losses of the installed Keras that are means over examples, by name."""
    return {
        name: kind
        for name, kind in sorted(vars(L).items())
        if isinstance(kind, type) and issubclass(kind, L.Loss) and name not in _APART
    }


def _every_loss(reduction: Any) -> models.Build:
    def build() -> keras.Model:
        inputs = keras.Input((data.FEATURES,))
        hidden = keras.layers.Dense(4, activation="tanh")(inputs)
        outputs = {
            name: keras.layers.Dense(
                data.CLASSES, activation=_NEEDS.get(name, ("numbers", "linear"))[1], name=name
            )(hidden)
            for name in shipped()
        }
        model = keras.Model(inputs, outputs)
        losses = {name: kind(reduction=reduction) for name, kind in shipped().items()}
        weights = {name: 0.1 + 0.05 * index for index, name in enumerate(losses)}
        model.compile(models.momentum(), loss=losses, loss_weights=weights)
        return model

    return build


def _every_target() -> dict[str, Any]:
    made = _targets()
    targets = {name: made[_NEEDS.get(name, ("numbers", "linear"))[0]] for name in shipped()}
    return {"x": data.features(), "y": targets}


def _speech() -> keras.Model:
    hidden = keras.layers.LSTM(4, return_sequences=True)(frames := keras.Input((6, data.FEATURES)))
    model = keras.Model(frames, keras.layers.Dense(5)(hidden))
    model.compile(models.momentum(), loss="ctc")
    return model


def _spoken() -> dict[str, Any]:
    draw = np.random.default_rng(8)
    frames, letters = draw.normal(size=(15, 6, data.FEATURES)), draw.integers(1, 5, (15, 3))
    letters[4, 2:] = 0  # which is no letter
    return {"x": frames, "y": letters}


ROWS = (
    *_by_reduction,
    *_weights,
    *_functions,
    *_saturated,
    *(
        Case(f"every shipped loss, reduction {reduction}", _every_loss(reduction), _every_target)
        for reduction in ("sum_over_batch_size", "sum")
    ),
    # Its last batch has one row, and TensorFlow cannot compute it for none; it is of float32.
    Case("loss CTC", _speech, _spoken, worlds=("2", "4", "2 workers"), tolerance=1e-6),
)
