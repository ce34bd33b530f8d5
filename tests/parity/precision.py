"""Rows: 16-bit training. What is decided has to be the same exactly: steps skipped, loss scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from parity import data, models
from parity.case import WORLDS, Case

O = keras.optimizers  # noqa: E741

# Machine epsilons: 1e-3 for float16, 8e-3 for bfloat16; a few of them for each of the ~8 steps.
_FLOAT16, _BFLOAT16 = 5e-3, 6e-2
_ROWS, _BATCH = 22, 8  # batches of 8, 8 and 6


def _mlp(policy: str, optimizer: Callable[[], Any], **options: Any) -> models.Build:
    def build() -> keras.Model:
        # Set by model and not globally, so that a row leaves nothing behind.
        layers = [
            keras.layers.Dense(4, activation="tanh", dtype=policy),
            keras.layers.Dense(data.CLASSES, dtype=policy),
            keras.layers.Activation("softmax", dtype="float32"),
        ]
        model = keras.Sequential([keras.Input((data.FEATURES,)), *layers], name="mixed")
        return models.compiled(model, optimizer, **options)

    return build


def _global_policy(policy: str, optimizer: Callable[[], Any]) -> models.Build:
    """The policy as users set it: `compile` then wraps the optimizer into a LossScaleOptimizer."""

    def build() -> keras.Model:
        keras.config.set_dtype_policy(policy)
        model = models.mlp(optimizer)()
        wrapped = isinstance(model.optimizer, O.LossScaleOptimizer)
        assert wrapped == (policy == "mixed_float16")
        return model

    return build


def _overflow_at(row: int) -> Callable[[], dict[str, Any]]:
    """One example with such a weight that its gradients overflow, while its loss does not."""
    weights = np.ones(_ROWS, "float32")
    weights[row] = 3e4
    return lambda: _float32(sample_weight=weights)


def _infinite_at(row: int) -> Callable[[], dict[str, Any]]:
    """One example whose outputs overflow, so that the loss itself is no number."""

    def made() -> dict[str, Any]:
        data = _float32()
        data["x"][row] = 1e5  # infinite in float16
        return data

    return made


def _has_skipped(model: keras.Model) -> None:
    """Makes sure that the row is one: some of the 9 steps were skipped, and not all."""
    assert 0 < int(np.asarray(model.optimizer.iterations)) < 9


def _float32(**more: Any) -> dict[str, Any]:
    return {"x": data.features().astype("float32"), "y": data.labels(), **more}


def _scaled(**options: Any) -> Callable[[], Any]:
    return lambda: O.LossScaleOptimizer(
        O.SGD(0.1, momentum=0.9, **options), initial_scale=2.0**15, dynamic_growth_steps=3
    )


# The second batch has the rows 8 to 15; each of 2, 3 and 4 replicas holds one of these.
_OVERFLOWS = (
    (8, WORLDS), (11, ("2", "2 workers")), (13, ("4",)), (15, ("4", "3 workers")),
)
_MIXED = {"fit": {"batch_size": _BATCH, "epochs": 3}, "floatx": "float32", "then": ()}

ROWS = (
    *(
        Case(
            name=f"float16, overflow in row {row}",
            build=_mlp("mixed_float16", _scaled()),
            data=_overflow_at(row),
            tolerance=_FLOAT16,
            worlds=worlds,
            check=_has_skipped,
            **_MIXED,
        )
        for row, worlds in _OVERFLOWS
    ),
    Case(
        name="float16, infinite outputs in the last batch, clipping",
        build=_mlp("mixed_float16", _scaled(global_clipnorm=0.1)),
        data=_infinite_at(21),
        tolerance=_FLOAT16,
        check=_has_skipped,
        **_MIXED,
    ),
    Case(
        name="mixed_float16, global policy",
        build=_global_policy("mixed_float16", models.momentum),
        data=_float32,
        tolerance=_FLOAT16,
        **_MIXED,
    ),
    Case(
        name="mixed_bfloat16, global policy",
        build=_global_policy("mixed_bfloat16", models.momentum),
        data=_float32,
        tolerance=_BFLOAT16,
        **_MIXED,
    ),
    *(
        Case(
            name=f"LossScaleOptimizer in float64{name}",
            build=models.bag_of_words(_scaled(**options)),
            data=data.words,
            then=(),
        )
        for name, options in (
            ("", {}),
            (", clipping", {"clipnorm": 0.05}),
            (", averaged weights", {"use_ema": True, "ema_overwrite_frequency": 2}),
            (", accumulation", {"gradient_accumulation_steps": 3}),
        )
    ),
)
