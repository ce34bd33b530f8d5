"""Rows: every metric that Keras ships, in training, validation and evaluation."""

from __future__ import annotations

import inspect
from typing import Any

import keras
import numpy as np

from parity import data, models
from parity.case import NO_THIRD_WORKER, Case

M = keras.metrics
ops = keras.ops

# What a metric is measured on, and the arguments it cannot do without.
# Outputs: bits (three independent probabilities), classes (a softmax, integer targets), one_hot (a
# softmax, one-hot targets), numbers (three numbers), positive (three positive ones), rounded (zeros
# and ones). TensorFlow's top-k takes float32 alone, so it has outputs of its own.
_NEEDS: dict[str, tuple[str, dict[str, Any]]] = {
    "AUC": ("bits", {"num_thresholds": 20}),
    "Accuracy": ("rounded", {}),
    "BinaryAccuracy": ("bits", {}),
    "BinaryCrossentropy": ("bits", {}),
    "BinaryIoU": ("bits", {}),
    "CategoricalAccuracy": ("one_hot", {}),
    "CategoricalCrossentropy": ("one_hot", {}),
    "CategoricalHinge": ("one_hot", {}),
    "F1Score": ("one_hot", {"average": "macro"}),
    "FBetaScore": ("one_hot", {"average": "weighted", "beta": 0.5}),
    "FalseNegatives": ("bits", {}),
    "FalsePositives": ("bits", {}),
    "Hinge": ("bits", {}),
    "IoU": ("classes", {"num_classes": 3, "target_class_ids": [0, 2], "sparse_y_pred": False}),
    "KLDivergence": ("one_hot", {}),
    "MeanAbsolutePercentageError": ("positive", {}),
    "MeanIoU": ("classes", {"num_classes": 3, "sparse_y_pred": False}),
    "MeanMetricWrapper": ("numbers", {"fn": lambda y, p: ops.mean(ops.abs(y - p) ** 3, axis=-1)}),
    "MeanSquaredLogarithmicError": ("positive", {}),
    "OneHotIoU": ("one_hot", {"num_classes": 3, "target_class_ids": [1]}),
    "OneHotMeanIoU": ("one_hot", {"num_classes": 3}),
    "Poisson": ("positive", {}),
    "Precision": ("bits", {"thresholds": 0.4}),
    "PrecisionAtRecall": ("bits", {"recall": 0.5, "num_thresholds": 20}),
    "Recall": ("one_hot", {"top_k": 2}),
    "RecallAtPrecision": ("bits", {"precision": 0.5, "num_thresholds": 20}),
    "SensitivityAtSpecificity": ("bits", {"specificity": 0.5, "num_thresholds": 20}),
    "SparseCategoricalAccuracy": ("classes", {}),
    "SparseCategoricalCrossentropy": ("classes", {}),
    "SparseTopKCategoricalAccuracy": ("classes_32", {"k": 2}),
    "SpecificityAtSensitivity": ("bits", {"sensitivity": 0.5, "num_thresholds": 20}),
    "SquaredHinge": ("bits", {}),
    "TopKCategoricalAccuracy": ("one_hot_32", {"k": 2}),
    "TrueNegatives": ("bits", {"thresholds": 0.6}),
    "TruePositives": ("bits", {}),
}
_ACTIVATIONS = {
    "bits": "sigmoid",
    "classes": "softmax",
    "one_hot": "softmax",
    "numbers": None,
    "positive": "softplus",
    "rounded": "sigmoid",
    "classes_32": "softmax",
    "one_hot_32": "softmax",
}
# `Metric` is what the others are made of; `Mean` and `Sum` take values, no targets: rows of their
# own below.
_APART = ("Metric", "Mean", "Sum")


def shipped() -> dict[str, type]:
    """Returns the metrics of the installed Keras by name."""
    return {
        name: kind
        for name, kind in sorted(vars(M).items())
        if inspect.isclass(kind) and issubclass(kind, M.Metric) and name not in _APART
    }


# Takes no weight a row: Keras fails on one device too.
_UNWEIGHTED = ("BinaryIoU",)
# With a list of thresholds, Keras's `TrueNegatives.result()` is the variable itself, so that a
# stock History changes after the epoch: a single one makes it a number.


def _metrics_of(output: str, *, weighted: bool) -> list[Any]:
    made = []
    for name, kind in shipped().items():
        if weighted and name in _UNWEIGHTED:
            continue
        measured_on, arguments = _NEEDS.get(name, ("numbers", {}))
        if measured_on == output:
            made.append(kind(name=name, **arguments))
    return made


def _targets() -> dict[str, np.ndarray]:
    numbers = data.numbers(data.ROWS, data.CLASSES)
    classes = data.labels()
    return {
        "bits": (numbers > 0).astype("float64"),
        "classes": classes,
        "one_hot": np.eye(data.CLASSES)[classes],
        "numbers": numbers,
        "positive": np.abs(numbers) + 0.1,
        "rounded": (numbers > 0).astype("float64"),
        "classes_32": classes,
        "one_hot_32": np.eye(data.CLASSES)[classes],
    }


def _measured(*, weighted: bool = False, steps_per_execution: int = 1) -> models.Build:
    """A model with an output of each kind, and each metric on the output that it is for."""

    def build() -> keras.Model:
        inputs = keras.Input((data.FEATURES,))
        hidden = keras.layers.Dense(4, activation="tanh")(inputs)
        outputs = {}
        for name, activation in _ACTIVATIONS.items():
            output = keras.layers.Dense(data.CLASSES, activation=activation)(hidden)
            if name == "rounded":
                output = keras.layers.Lambda(ops.round)(output)
            dtype = "float32" if name.endswith("_32") else "float64"
            outputs[name] = keras.layers.Identity(name=name, dtype=dtype)(output)
        model = keras.Model(inputs, outputs)
        metrics = {name: _metrics_of(name, weighted=weighted) for name in outputs}
        model.compile(
            models.momentum(),
            loss={"numbers": "mse", "classes": "sparse_categorical_crossentropy"},
            weighted_metrics=metrics if weighted else None,
            metrics=None if weighted else metrics,
            steps_per_execution=steps_per_execution,
        )
        return model

    return build


def _all_targets(**more: Any) -> dict[str, Any]:
    return {"x": data.features(), "y": _targets(), **more}


def _all_weights() -> dict[str, Any]:
    weights = {name: data.weights() for name in _targets()}
    return _all_targets(sample_weight=weights)


class SumOfSquares(M.Metric):
    """A metric of one's own whose states are sums."""

    def __init__(self, name: str = "sum_of_squares", **options: Any) -> None:
        super().__init__(name=name, **options)
        self.total = self.add_variable((), "zeros", name="total")
        self.count = self.add_variable((), "zeros", name="count")

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        squares = ops.square(ops.cast(y_true, self.dtype) - ops.cast(y_pred, self.dtype))
        self.total.assign_add(ops.sum(squares))
        self.count.assign_add(ops.cast(ops.shape(y_true)[0], self.dtype))

    def result(self) -> Any:
        return self.total / self.count


class Tracking(keras.Model):
    """Updates a `Mean` and a `Sum` in its call, as models that log do."""

    def __init__(self) -> None:
        super().__init__()
        self.hidden = keras.layers.Dense(4, activation="tanh")
        self.last = keras.layers.Dense(1)
        self.level = M.Mean(name="level")
        self.rows = M.Sum(name="rows")

    def call(self, x: Any) -> Any:
        hidden = self.hidden(x)
        self.level.update_state(ops.mean(hidden))
        return self.last(hidden)


class Measuring(Tracking):
    """Overrides `compute_metrics`."""

    def compute_metrics(self, x: Any, y: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        self.rows.update_state(ops.ones_like(y_pred[:, 0]))
        self.level.update_state(y_pred)
        return super().compute_metrics(x, y, y_pred, sample_weight)


def _tracking(kind: type) -> models.Build:
    return lambda: models.compiled(kind(), loss="mse", metrics=["mae"])


def _scalar_metric(y_true: Any, y_pred: Any) -> Any:
    return ops.mean(ops.abs(y_true - y_pred))


def _number(y_true: Any, y_pred: Any) -> float:
    """A metric that is a number of Python, which Keras makes a tensor of."""
    return 0.75


_VALIDATED = {"validation_freq": 2, "validation_batch_size": 5}


def _with_validation(made: dict[str, Any]) -> dict[str, Any]:
    return {**made, "validation_data": (made["x"][:11], {k: v[:11] for k, v in made["y"].items()})}


ROWS = (
    Case(
        name="every shipped metric, training and validation",
        build=_measured(),
        data=lambda: _with_validation(_all_targets()),
        fit=_VALIDATED,
        worlds=NO_THIRD_WORKER,
    ),
    Case(
        name="every shipped metric, weighted",
        build=_measured(weighted=True),
        data=_all_weights,
        worlds=("2", "4", "2 workers"),
    ),
    Case(
        name="metric of one's own whose states are sums",
        build=models.regressor(made=lambda: {"metrics": [SumOfSquares(), _scalar_metric, _number]}),
        data=data.regression,
        worlds=NO_THIRD_WORKER,
    ),
    Case(
        name="metrics of a masked sentence",
        build=models.tagger(metrics=["accuracy"], weighted_metrics=["accuracy"]),
        data=data.tagged,
    ),
    Case("Mean updated by a scalar in call", _tracking(Tracking), data.regression),
    Case("compute_metrics overridden", _tracking(Measuring), data.regression),
)
