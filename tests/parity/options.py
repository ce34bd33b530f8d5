"""Rows: what an optimizer can be told, clipping, accumulation, averages of weights."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import keras

from parity import data, models
from parity.case import WORLDS, Api, Case

O = keras.optimizers  # noqa: E741  (a table reads better with short names)
_case = functools.partial(Case, then=())  # the variables show what an optimizer did


def _swapping(model: Any, arguments: Mapping[str, Any], api: Api) -> list[Any]:
    """Trains with the averaged weights swapped in at each epoch's end."""
    callback = keras.callbacks.SwapEMAWeights(swap_on_epoch=True)
    return [api.fit(model, callbacks=[callback], **arguments)]


_CLIPPINGS = (
    ("clipnorm", {"clipnorm": 0.05}),
    ("clipvalue", {"clipvalue": 0.01}),
    ("global_clipnorm", {"global_clipnorm": 0.1}),
)
# 4 steps an epoch, so that 3 is no divisor: the remainder goes on in the next epoch.
_ACCUMULATIONS = (
    ("2 steps", lambda: O.Adam(0.05, gradient_accumulation_steps=2)),
    ("3 steps", lambda: O.Adam(0.05, gradient_accumulation_steps=3)),
    ("3 steps, clipnorm", lambda: O.SGD(0.1, 0.9, gradient_accumulation_steps=3, clipnorm=0.05)),
    (
        "3 steps, global_clipnorm, weight decay",
        lambda: O.AdamW(0.05, gradient_accumulation_steps=3, global_clipnorm=0.1),
    ),
    (
        "2 steps, averaged weights",
        lambda: O.Adam(
            0.05, gradient_accumulation_steps=2, use_ema=True, ema_overwrite_frequency=2
        ),
    ),
)
_AVERAGES = (
    ("to the end", {"ema_momentum": 0.9}),
    ("every 3 steps", {"ema_momentum": 0.9, "ema_overwrite_frequency": 3}),
)

ROWS = (
    _case("SGD with momentum", models.mlp(), data.plain, worlds=WORLDS, quick=True),
    *(
        _case(
            name=f"SGD {name}",
            build=models.mlp(lambda option=option: O.SGD(0.1, 0.9, **option)),
            data=data.plain,
            worlds=("2", "2 workers") if name == "clipvalue" else WORLDS,
            quick=True,
        )
        for name, option in _CLIPPINGS
    ),
    *(
        _case(
            name=f"Adam {name}, embedding",
            build=models.bag_of_words(lambda option=option: O.Adam(0.05, **option)),
            data=data.words,
        )
        for name, option in _CLIPPINGS
    ),
    *(
        _case(
            name=f"accumulation of {name}",
            build=models.bag_of_words(make),
            data=data.words,
            fit={"epochs": 3},
            worlds=WORLDS if name == "3 steps, clipnorm" else ("2", "2 workers"),
        )
        for name, make in _ACCUMULATIONS
    ),
    *(
        _case(
            name=f"averaged weights {name}",
            build=models.bag_of_words(
                lambda option=option: O.Adam(0.05, use_ema=True, **option)
            ),
            data=data.words,
        )
        for name, option in _AVERAGES
    ),
    _case(
        name="averaged weights by SwapEMAWeights",
        build=models.mlp(lambda: O.Adam(0.05, use_ema=True, ema_momentum=0.9)),
        data=data.plain,
        program=_swapping,
    ),
    _case(
        name="loss_scale_factor with clipping",
        build=models.mlp(lambda: O.SGD(0.1, 0.9, loss_scale_factor=128.0, clipnorm=0.05)),
        data=data.plain,
    ),
    _case(
        name="loss_scale_factor with accumulation",
        build=models.mlp(
            lambda: O.Adam(0.05, loss_scale_factor=8.0, gradient_accumulation_steps=3)
        ),
        data=data.plain,
    ),
)
