"""Rows: optimizers whose states each replica holds a part of: slices, or those of whole weights.

Afterwards the states are put together, so that all of them are compared.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import keras

from parity import data, models, precision
from parity.case import WORLDS, Api, Case
from tfdist.sharding import adopting, allowed, shards
from tfdist.sharding.sliced_state import HeldState

O = keras.optimizers  # noqa: E741


_SCALED = (
    "float16, overflow in row 8", "float16, infinite outputs in the last batch, clipping",
    "LossScaleOptimizer in float64, averaged weights",
    "LossScaleOptimizer in float64, accumulation",
)  # fmt: skip


def _sharded(model: Any, arguments: Mapping[str, Any], api: Api, **more: Any) -> list[Any]:
    """Trains with states in parts, where there are several replicas."""
    strategy = model.distribute_strategy
    if strategy.num_replicas_in_sync == 1:
        return [api.fit(model, **arguments, **more)]
    history = api.fit(model, sharded_optimizer=True, **arguments, **more)
    states = shards.states_of(model.optimizer)
    assert any(isinstance(state, HeldState) for state in states)
    adopting.adopt(model, strategy, is_wanted=False)
    return [history]


def _swapping(model: Any, arguments: Mapping[str, Any], api: Api) -> list[Any]:
    callback = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    return _sharded(model, arguments, api, callbacks=[callback])


_case = functools.partial(
    Case, program=_sharded, then=(), data=data.plain, worlds=("2 workers", "3 workers")
)


def _optimizer(name: str) -> Any:
    rate: Any = O.schedules.ExponentialDecay(0.05, decay_steps=2, decay_rate=0.7)
    options = {"momentum": 0.9} if name in ("SGD", "RMSprop") else {}
    if name == "Muon":  # multiplies a schedule's float32 with float64: Keras fails
        rate = 0.05
    return getattr(O, name)(
        learning_rate=rate, weight_decay=0.01, global_clipnorm=0.3, **options
    )


def _no_decay_of_biases(name: str) -> Any:
    options = {"momentum": 0.9, "centered": True} if name == "RMSprop" else {}
    optimizer = getattr(O, name)(0.02, weight_decay=0.1, clipvalue=0.01, **options)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    return optimizer


def _constrained(make: Any) -> models.Build:
    def build() -> keras.Model:
        model = models.mlp(make)()
        for layer in model.layers:
            layer.kernel.constraint = keras.constraints.MaxNorm(0.7)
        return model

    return build


def _one_weight() -> keras.Model:
    dense = keras.layers.Dense(data.CLASSES, activation="softmax", use_bias=False)
    model = keras.Sequential([keras.Input((data.FEATURES,)), dense])
    return models.compiled(model, lambda: O.Adafactor(0.05, global_clipnorm=0.1))


def _scaled_lamb() -> Any:
    inner = O.Lamb(0.05, gradient_accumulation_steps=2, use_ema=True, global_clipnorm=0.1)
    return O.LossScaleOptimizer(inner, initial_scale=4.0, dynamic_growth_steps=3)


ROWS = (
    *(
        _case(
            name=f"slices of {name} with schedule, weight decay and clipping",
            build=models.bag_of_words(functools.partial(_optimizer, name)),
            data=data.words,
            worlds=("2 workers",),
        )
        for name in allowed.BY_NUMBER
    ),
    *(
        _case(
            name=f"owners, {name} with schedule, weight decay and clipping",
            build=models.bag_of_words(functools.partial(_optimizer, name)),
            data=data.words,
            worlds=("2 workers",),
        )
        for name in allowed.BY_WEIGHT
    ),
    _case(
        name="owners, Muon, clipnorm and constraints",
        build=_constrained(lambda: O.Muon(0.1, clipnorm=0.05)),
        worlds=WORLDS,
        quick=True,
    ),
    _case(
        name="owners, Lamb, weight decay without biases",
        build=models.mlp(functools.partial(_no_decay_of_biases, "Lamb")),
    ),
    _case(
        name="owners, Adafactor, accumulation of 3 steps, clipvalue",
        build=models.mlp(
            lambda: O.Adafactor(0.05, gradient_accumulation_steps=3, clipvalue=0.01)
        ),
        worlds=WORLDS,
    ),
    _case(
        name="owners, Adafactor, averaged weights every 3 steps",
        build=models.bag_of_words(
            lambda: O.Adafactor(0.05, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3)
        ),
        data=data.words,
        worlds=("2", "3 workers"),
    ),
    _case(
        name="owners, Muon, averaged weights by SwapEMAWeights",
        build=models.mlp(lambda: O.Muon(0.05, use_ema=True, ema_momentum=0.9)),
        program=_swapping,
        worlds=("2", "2 workers"),
    ),
    _case(
        name="owners, LossScaleOptimizer of Lamb, accumulation, averaged weights to the end",
        build=models.mlp(_scaled_lamb),
    ),
    _case(
        name="owners, Adafactor, more workers than weights",
        build=_one_weight,
        worlds=("3 workers",),
    ),
    _case(
        name="slices of Adam, clipnorm and constraints",
        build=_constrained(lambda: O.Adam(0.1, amsgrad=True, clipnorm=0.05)),
        worlds=WORLDS,
        quick=True,
    ),
    _case(
        name="slices of RMSprop, weight decay without biases",
        build=models.mlp(functools.partial(_no_decay_of_biases, "RMSprop")),
    ),
    _case(
        name="slices, accumulation of 3 steps, global_clipnorm",
        build=models.mlp(
            lambda: O.AdamW(0.05, gradient_accumulation_steps=3, global_clipnorm=0.1)
        ),
        worlds=WORLDS,
    ),
    _case(
        name="slices, averaged weights every 3 steps",
        build=models.bag_of_words(
            lambda: O.Adam(0.05, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=3)
        ),
        data=data.words,
    ),
    _case(
        name="slices, accumulation and averaged weights to the end",
        build=models.mlp(
            lambda: O.SGD(0.1, 0.9, use_ema=True, gradient_accumulation_steps=2)
        ),
    ),
    _case(
        name="slices, averaged weights by SwapEMAWeights",
        build=models.mlp(lambda: O.Adam(0.05, use_ema=True, ema_momentum=0.9)),
        program=_swapping,
        worlds=("2", "2 workers"),
    ),
    *(
        dataclasses.replace(
            row, name=f"slices, {row.name}", program=_sharded, worlds=("2 workers", "3 workers")
        )
        for row in precision.ROWS
        if row.name in _SCALED
    ),
)
