"""Says whether a model of yours will train on a TPU, without one.

    python scripts/tpu_preflight.py --target=my_module:my_model --topology=v5e:2x4 --batch_size=1024
    python scripts/tpu_preflight.py --target=my_module:my_model --fast

`my_model()` returns a compiled Keras model, or `(model, batch)` with a small batch of its data
where the model does not tell what it takes. The step of `tfdist.fit` is compiled by the compiler
that real TPUs use, in a virtual environment that the first run makes. Exit code 0 where it compiles
and fits, 1 where it does not. Without `--target` it takes a small network on the digits.
"""

from __future__ import annotations

import sys
from typing import Any

import keras
from absl import app, flags
from named_functions import function_of

import tfdist

_TARGET = flags.DEFINE_string("target", None, "module:function that returns a compiled model.")
_TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "A kind of TPU and the shape of a slice.")
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 1024, "Examples per step, over all replicas.", lower_bound=1
)
_STEPS_PER_EXECUTION = flags.DEFINE_integer(
    "steps_per_execution", 1, "Steps in one execution.", lower_bound=1
)
_FAST = flags.DEFINE_boolean("fast", False, "Whether only to see if it compiles.")
_FIND_LARGEST_BATCH = flags.DEFINE_boolean(
    "find_largest_batch", False, "Whether to search for the largest batch that fits."
)
_LINT = flags.DEFINE_boolean("lint", True, "Whether to name what a TPU does badly, too.")
_VENV = flags.DEFINE_string("venv", None, "Environment with the extra tpu-preflight, as it is.")
_CACHE_DIR = flags.DEFINE_string("cache_dir", None, "Folder in which that environment is made.")


def digits() -> keras.Model:
    """Returns a small network for the digits."""
    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((8, 8)), layers.Flatten(), layers.Dense(128, activation="relu"),
         layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return model


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; flags are given as --name=value.")
    try:
        make = function_of(_TARGET.value) if _TARGET.value else digits
    except ValueError as error:
        raise app.UsageError(f"--target={error}") from None
    made: Any = make()
    model, batch = made if isinstance(made, tuple) else (made, None)
    report = tfdist.tpu.preflight(
        model, batch, batch_size=_BATCH_SIZE.value, topology=_TOPOLOGY.value,
        steps_per_execution=_STEPS_PER_EXECUTION.value, fast=_FAST.value,
        find_largest_batch=_FIND_LARGEST_BATCH.value, venv=_VENV.value, cache_dir=_CACHE_DIR.value,
    )
    print(report)
    for finding in tfdist.tpu.lint(model, batch) if _LINT.value else ():
        print(finding)
    sys.exit(0 if report.compiles and report.fits else 1)


if __name__ == "__main__":
    app.run(main)
