"""Checks that a model of yours trains the same on many devices as on one.

    python scripts/verify.py --target=my_module:my_case
    python scripts/verify.py --target=my_module:my_case --device=cpu --workers=2

`my_case()` returns `(build_fn, x, y)`: a function that builds and compiles the model, and arrays.
Exit code 0 where the runs agree to rounding, 1 where they differ; the first tensor that differs is
named. Without `--target` it checks a small network on the digits.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
from absl import app, flags
from named_functions import function_of

import tfdist

_TARGET = flags.DEFINE_string("target", None, "module:function that returns (build_fn, x, y).")
_DEVICE = flags.DEFINE_string("device", "2xcpu", "What each worker trains on, distributed.")
_WORKERS = flags.DEFINE_integer("workers", 1, "Worker processes of it.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 5, "Steps to compare.", lower_bound=1)
_GLOBAL_BATCH_SIZE = flags.DEFINE_integer(
    "global_batch_size", 33, "Examples per step, over all replicas.", lower_bound=1
)
_FLOATX = flags.DEFINE_enum(
    "floatx", "float64", ["float64", "float32"], "Precision of layers that do not name their own."
)


def digits() -> tuple[Any, Any, Any]:
    """Returns a small network with dropout and clipping, and the digits."""

    def build() -> keras.Model:
        layers = keras.layers
        model = keras.Sequential(
            [keras.Input((8, 8)), layers.Flatten(), layers.Rescaling(1 / 16),
             layers.Dense(16, activation="tanh"), layers.Dropout(0.2), layers.Dense(10)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.01, clipnorm=0.1), loss, metrics=["accuracy"])
        return model

    (x, y), _ = tfdist.datasets.load_digits()
    return build, x[:150].astype(keras.config.floatx()), y[:150]


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; flags are given as --name=value.")
    keras.config.set_floatx(_FLOATX.value)
    try:
        make = function_of(_TARGET.value) if _TARGET.value else digits
    except ValueError as error:
        raise app.UsageError(f"--target={error}") from None
    case = make()
    if not isinstance(case, tuple) or len(case) != 3:
        raise app.UsageError(
            f"--target={_TARGET.value!r} returned {type(case).__name__}; it has to return "
            "(build_fn, x, y)."
        )
    build_fn, x, y = case
    report = tfdist.verify(
        build_fn, x, y, device=_DEVICE.value, workers=_WORKERS.value, steps=_STEPS.value,
        batch_size=_GLOBAL_BATCH_SIZE.value,
    )
    print(report)
    sys.exit(0 if report.agrees else 1)


if __name__ == "__main__":
    app.run(main)
