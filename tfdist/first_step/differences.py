"""Where do two computations of one step differ, beyond rounding?

They may sum in other orders. What that changes is small beside the largest value of a tensor, or,
where a sum cancels out, beside the summands, which have the size of other values: of other
gradients, say, or of the variable whose change is looked at.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfdist.compat import keras_internals
from tfdist.first_step.likely_cause import Found
from tfdist.step.own_code import all_metrics

# Largest difference beside a tensor's own values, and beside those of its whole group. Code of
# other people may compute in float32 inside of a float64 model.
_ROUNDING = {
    "float64": (1e-5, 1e-7), "float32": (1e-3, 1e-5), "bfloat16": (6e-2, 1e-2),
    "float16": (3e-2, 3e-3),
}  # fmt: skip
_JUMPS = 0.1  # of predicted classes may differ by rounding
# Metrics of Keras that count: rounding may move an example from one side of a threshold to the
# other, and their arithmetic is tfdist's own matter.
_COUNTING = (
    "Accuracy", "AUC", "FBeta", "F1", "FalseNeg", "FalsePos", "IoU", "MeanIoU", "Precision",
    "Recall", "Sensitivity", "Specificity", "TrueNeg", "TruePos", "TopK",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a step made.

    Attributes:
        gradients: As applied, by the path of their variable.
        logs: The results of the metrics, and what the step returned, by name.
        states: All other variables after the step, one row a local replica, by path.
        trained: The variables that got a gradient, in the same way.
        outputs: What the step predicts, by number.
    """

    gradients: Mapping[str, np.ndarray]
    logs: Mapping[str, np.ndarray]
    states: Mapping[str, np.ndarray]
    trained: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def first_difference(
    before: Mapping[str, np.ndarray], whole: Outcome, split: Outcome, *, precision: str
) -> Found | None:
    """Returns the first tensor that differs; None where the two agree to rounding.

    Args:
        before: The states before the step, like those of an outcome.
        whole: With all rows on replica 0, whose values count.
        split: With the rows split.
        precision: The name of the dtype that the model computes in, see `precision_of`.
    """
    return next(_differences(before, whole, split, *_ROUNDING.get(precision, (1e-3, 1e-5))), None)


def _differences(
    before: Mapping[str, np.ndarray], whole: Outcome, split: Outcome, own: float, beside: float
) -> Iterator[Found]:
    scale = max((_largest(value) for value in whole.gradients.values()), default=0.0)
    for name, value in whole.gradients.items():
        if _differ(value, split.gradients[name], own * _largest(value) + beside * scale):
            yield Found("gradient", name, value, split.gradients[name])
    for name, rows in whole.states.items():
        value, start = _number(rows[0]), _number(before[name][0])
        changed = value - start
        room = own * _largest(changed) + beside * _largest(value) if _is_float(rows) else 0.0
        for row in split.states[name]:
            if _differ(value, row, room):
                # What was added says more than what came out of it.
                yield Found("state", name, changed, _number(row) - start)
    for name, rows in split.trained.items():
        for row in rows[1:]:
            if _differ(rows[0], row, 0.0):
                yield Found("state", name, _number(rows[0]), _number(row))
    for name, value in whole.logs.items():
        room = own * _largest(value) + beside * min(1.0, _largest(value))
        if name in split.logs and _differ(value, split.logs[name], room):
            yield Found("log", name, value, split.logs[name])
    for name, value in whole.outputs.items():
        other = split.outputs[name]
        if not _is_number(value):
            continue
        room = own * _largest(value)
        if _differ(value, other, room) and not _are_counted(value, other):
            yield Found("output", name, value, other)


def precision_of(model: keras.Model) -> str:
    """Returns the coarsest dtype that a model computes in."""
    used = {layer.compute_dtype for layer in keras_internals.flat_layers(model)}
    used |= {variable.dtype for variable in model.variables}
    return next((name for name in ("bfloat16", "float16", "float32") if name in used), "float64")


def counted_logs(model: keras.Model) -> set[str]:
    """Returns the names of metrics that may jump where their inputs are rounded."""
    return {metric.name for metric in all_metrics(model) if _counts(metric)}


def _counts(metric: Any) -> bool:
    kind = type(metric)
    if not kind.__module__.startswith("keras."):
        return False
    if isinstance(metric, keras.metrics.MeanMetricWrapper):
        function, _ = keras_internals.function_of(metric)
        if "accuracy" in getattr(function, "__name__", ""):
            return True
    return any(word in kind.__name__ for word in _COUNTING)


def _differ(one: Any, other: Any, room: float) -> bool:
    """Tells whether values are further apart than `room`, or not finite on one side alone."""
    one, other = _number(one), _number(other)
    are_finite = np.isfinite(one), np.isfinite(other)
    if one.shape != other.shape or (are_finite[0] != are_finite[1]).any():
        return True
    gap = np.abs(np.where(are_finite[0], one, 0) - np.where(are_finite[0], other, 0))
    return bool(np.max(gap, initial=0.0) > room)


def _largest(value: Any) -> float:
    value = _number(value)
    return float(np.max(np.abs(value), initial=0.0, where=np.isfinite(value)))


def _number(value: Any) -> np.ndarray:
    return np.asarray(value, np.float64)


def _are_counted(one: np.ndarray, other: np.ndarray) -> bool:
    """Tells whether whole numbers differ in few entries: rounding may choose another class."""
    if _is_float(one) or one.shape != other.shape:
        return False
    return float(np.mean(one != other)) <= _JUMPS


def _is_number(value: np.ndarray) -> bool:
    return value.dtype.kind in "iufb" or value.dtype.name == "bfloat16"


def _is_float(value: np.ndarray) -> bool:
    return value.dtype.kind not in "iub"
