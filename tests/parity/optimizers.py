"""Rows: every optimizer that Keras ships, found by listing, on a model with sparse gradients."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any

import keras

from parity import data, models
from parity.case import WORLDS, Case

# Classes whose constructor needs more than a learning rate.
_WRAPPERS = ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
_QUICK = ("Adam",)
_case = functools.partial(Case, then=())  # the variables show what an optimizer did


def shipped() -> dict[str, type]:
    """Returns the optimizers of the installed Keras by name."""
    return {
        name: kind
        for name, kind in sorted(vars(keras.optimizers).items())
        if inspect.isclass(kind)
        and issubclass(kind, keras.optimizers.Optimizer)
        and name not in _WRAPPERS
    }


def _with_options(kind: type) -> Callable[[], Any]:
    """Makes an optimizer with a schedule, weight decay and clipping at once."""

    def make() -> Any:
        rate: Any = keras.optimizers.schedules.ExponentialDecay(0.05, decay_steps=2, decay_rate=0.7)
        if kind.__name__ == "Muon":  # multiplies a schedule's float32 with float64: Keras fails
            rate = 0.05
        options = {"learning_rate": rate, "weight_decay": 0.01, "global_clipnorm": 0.3}
        return kind(**options)

    return make


def _built(build: models.Build) -> models.Build:
    """Builds the optimizer before `fit` does.

    Keras builds it inside its traced step on one device, where ScheduleFreeAdamW's copy of the
    initial weights is lost and training starts from zeros (seen in Keras 3.15).
    """

    def build_all() -> keras.Model:
        model = build()
        model.optimizer.build(model.trainable_variables)
        return model

    return build_all


def _rows() -> list[Case]:
    rows = []
    for name, kind in shipped().items():
        rows.append(
            _case(
                name=f"optimizer {name}",
                build=_built(models.bag_of_words(lambda kind=kind: kind(learning_rate=0.02))),
                data=data.words,
                worlds=WORLDS if name in _QUICK else ("2",),
                quick=name in _QUICK,
            )
        )
        rows.append(
            _case(
                name=f"optimizer {name} with schedule, weight decay and clipping",
                build=_built(models.bag_of_words(_with_options(kind))),
                data=data.words,
                worlds=("2 workers",),
                quick=name in _QUICK,
            )
        )
    return rows


_schedules = keras.optimizers.schedules
_SCHEDULES: dict[str, Callable[[], Any]] = {
    "CosineDecay": lambda: _schedules.CosineDecay(
        0.1, decay_steps=6, warmup_target=0.2, warmup_steps=2
    ),
    "CosineDecayRestarts": lambda: _schedules.CosineDecayRestarts(0.1, first_decay_steps=3),
    "ExponentialDecay": lambda: _schedules.ExponentialDecay(0.1, 3, 0.5, staircase=True),
    "InverseTimeDecay": lambda: _schedules.InverseTimeDecay(0.1, 2, 0.5),
    "PiecewiseConstantDecay": lambda: _schedules.PiecewiseConstantDecay([1, 3], [0.1, 0.05, 0.2]),
    "PolynomialDecay": lambda: _schedules.PolynomialDecay(0.1, 5, power=2.0),
}


def _two_optimizers() -> Any:
    """Two optimizers for two groups of variables, by Keras's own class."""
    groups = keras.optimizers.OptimizerMap(keras.optimizers.SGD(0.1, momentum=0.9))
    groups["dense.*"] = keras.optimizers.Adam(0.05, global_clipnorm=0.1)
    return keras.optimizers.MultiOptimizer(groups)


def _no_decay_of_biases() -> Any:
    optimizer = keras.optimizers.AdamW(0.05, weight_decay=0.1)
    optimizer.exclude_from_weight_decay(var_names=["bias", "embeddings"])
    return optimizer


ROWS = (
    *_rows(),
    *(
        _case(
            name=f"schedule {name}",
            build=models.mlp(lambda make=make: keras.optimizers.SGD(make(), momentum=0.9)),
            data=data.plain,
            worlds=("2",),
        )
        for name, make in _SCHEDULES.items()
    ),
    _case(
        name="SGD with Nesterov momentum and weight decay",
        build=models.mlp(
            lambda: keras.optimizers.SGD(0.1, 0.9, nesterov=True, weight_decay=0.1)
        ),
        data=data.plain,
    ),
    _case(
        name="weight decay without biases",
        build=models.bag_of_words(_no_decay_of_biases),
        data=data.words,
    ),
    _case(
        name="Adam with amsgrad",
        build=models.bag_of_words(lambda: keras.optimizers.Adam(0.05, amsgrad=True)),
        data=data.words,
    ),
    *(
        [_case("MultiOptimizer", models.bag_of_words(_two_optimizers), data.words)]
        if hasattr(keras.optimizers, "MultiOptimizer")
        else []
    ),
)
