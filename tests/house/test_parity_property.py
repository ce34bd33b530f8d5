"""Does any small model, trained in any way that Keras offers, give what one device gives?

Hypothesis draws a model, an optimizer with options, a loss with a reduction, weights, masks and
sizes of batches. What Keras refuses on one device has to be refused with the same kind of error.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import hypothesis
import keras
import numpy as np
import pytest
from hypothesis import strategies as st
from parity import apart, harness, verdicts, worlds
from parity.case import Case

from tfdist import testing

layers = keras.layers
_FEATURES, _CLASSES, _TOKENS, _STEPS = 5, 3, 7, 4
_OPTIMIZERS = ("SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "Lamb", "Nadam")


@dataclasses.dataclass(frozen=True)
class Drawn:
    """One training, as it was drawn; printed where it fails, so that it can be run again.

    Attributes:
        reads_words: Whether the model reads masked sentences (one output a step), or rows.
        between: Layers between the first and the last one.
        optimizer: Name and options.
        loss: Name of the loss class, and its reduction.
        weights: "none", "any", "some zero" or "all zero".
        rows: Examples.
        batch_size: Of the global batch.
        epochs: How often they are used.
        steps_per_execution: As in `compile`.
        metrics: Names, weighted or not.
    """

    reads_words: bool
    between: tuple[str, ...]
    optimizer: tuple[str, dict[str, Any]]
    loss: tuple[str, str | None]
    weights: str
    rows: int
    batch_size: int
    epochs: int
    steps_per_execution: int
    metrics: tuple[str, ...]


def _optimizers() -> st.SearchStrategy[tuple[str, dict[str, Any]]]:
    one_clipping = st.sampled_from(
        [{}, {"clipnorm": 0.05}, {"clipvalue": 0.01}, {"global_clipnorm": 0.1}]
    )
    accumulation = st.sampled_from([{}, {}, {"gradient_accumulation_steps": 2}])
    average = st.sampled_from(
        [{}, {"use_ema": True}, {"use_ema": True, "ema_overwrite_frequency": 2}]
    )
    scale = st.sampled_from([{}, {"loss_scale_factor": 16.0}])
    decay = st.sampled_from([{}, {"weight_decay": 0.05}])
    options = st.builds(
        lambda *parts: {name: value for part in parts for name, value in part.items()},
        one_clipping, accumulation, average, scale, decay,
    )
    return st.tuples(st.sampled_from(_OPTIMIZERS), options)


_drawn = st.builds(
    Drawn,
    reads_words=st.booleans(),
    between=st.lists(
        st.sampled_from(["dropout", "norm", "noise", "penalized", "recurrent"]), max_size=2
    ).map(tuple),
    optimizer=_optimizers(),
    loss=st.tuples(
        st.sampled_from(["SparseCategoricalCrossentropy", "MeanSquaredError"]),
        st.sampled_from(["sum", "sum_over_batch_size", "mean", "mean_with_sample_weight", "none"]),
    ),
    weights=st.sampled_from(["none", "any", "some zero", "all zero"]),
    rows=st.integers(1, 13),
    batch_size=st.integers(1, 9),
    epochs=st.integers(1, 2),
    steps_per_execution=st.sampled_from([1, 1, 2]),
    metrics=st.sampled_from([(), ("mae",), ("mae", "mse")]),
)


def _layer(kind: str, drawn: Drawn) -> Any:
    if kind == "recurrent":
        return layers.GRU(4, return_sequences=True) if drawn.reads_words else layers.Dense(4)
    made = {
        "dropout": lambda: layers.Dropout(0.4),
        "norm": lambda: layers.BatchNormalization(synchronized=True, momentum=0.7),
        "noise": lambda: layers.GaussianNoise(0.3),
        "penalized": lambda: layers.Dense(4, "tanh", kernel_regularizer="l2"),
    }
    return made[kind]()


def _build(drawn: Drawn) -> keras.Model:
    if drawn.reads_words:
        first = [keras.Input((_STEPS,)), layers.Embedding(_TOKENS, 4, mask_zero=True)]
    else:
        first = [keras.Input((_FEATURES,)), layers.Dense(4, "tanh")]
    kind, reduction = drawn.loss
    is_class = kind == "SparseCategoricalCrossentropy"
    last = layers.Dense(_CLASSES if is_class else 1, "softmax" if is_class else None)
    model = keras.Sequential([*first, *(_layer(name, drawn) for name in drawn.between), last])
    name, options = drawn.optimizer
    model.compile(
        getattr(keras.optimizers, name)(learning_rate=0.05, **options),
        getattr(keras.losses, kind)(reduction=reduction),
        metrics=[] if is_class else list(drawn.metrics),
        weighted_metrics=list(drawn.metrics) if not is_class else ["accuracy"],
        steps_per_execution=drawn.steps_per_execution,
    )
    return model


def _data(drawn: Drawn) -> dict[str, Any]:
    rng = np.random.default_rng(drawn.rows * 100 + drawn.batch_size)
    is_class = drawn.loss[0] == "SparseCategoricalCrossentropy"
    steps = (_STEPS,) if drawn.reads_words else ()
    if drawn.reads_words:
        x = rng.integers(1, _TOKENS, size=(drawn.rows, _STEPS))
        x[np.arange(_STEPS) >= rng.integers(0, _STEPS + 1, size=drawn.rows)[:, np.newaxis]] = 0
    else:
        x = rng.normal(size=(drawn.rows, _FEATURES))
    shape = (drawn.rows, *steps)
    y = rng.integers(0, _CLASSES, size=shape) if is_class else rng.normal(size=(*shape, 1))
    data = {"x": x, "y": y}
    if drawn.weights != "none":
        weights = rng.uniform(0.1, 2, size=shape)
        zero = {"any": 0, "some zero": drawn.rows // 2, "all zero": drawn.rows}[drawn.weights]
        weights[:zero] = 0
        data["sample_weight"] = weights
    return data


@hypothesis.settings(max_examples=25, deadline=None, derandomize=True, database=None)
@hypothesis.given(drawn=_drawn, replicas=st.sampled_from([2, 4]))
def _any_training_equals_that_of_one_device(drawn: Drawn, replicas: int) -> None:
    strategy = worlds.local_strategy(replicas)
    case = Case(
        name="drawn",
        build=lambda: _build(drawn),
        data=lambda: _data(drawn),
        fit={"epochs": drawn.epochs, "batch_size": drawn.batch_size},
    )
    expected = harness.run(case, harness.stock())
    outcome = harness.run(case, harness.distributed(strategy))
    if expected.error[0]:
        assert outcome.error[0] == expected.error[0], (outcome.error, expected.error)
    else:
        assert harness.differences(outcome, expected, 1e-9) == []


def _check_all() -> None:
    testing.logical_cpus(verdicts.LOGICAL_CPUS)
    _any_training_equals_that_of_one_device()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_any_training_equals_that_of_one_device() -> None:
    apart.call(_check_all, timeout_secs=850)  # a process that has trained before takes longer
