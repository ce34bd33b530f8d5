"""How much faster is a model with fewer bits, and how far from the model are its outputs?

    python scripts/benchmark_inference.py --rounds=7

Two models of examples/ and a large MLP, all untrained: `tfdist.predict` in float32, and with
`tfdist.inference.reduced` and XLA. Variants take turns; a time is the processor's, of all threads.
Prints the table of docs/inference.md.
"""

from __future__ import annotations

import argparse
import pathlib
import runpy
import statistics
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
from absl import flags

import tfdist

_EXAMPLES = pathlib.Path(__file__).resolve().parent.parent / "examples"
_VARIANTS = [
    (weights, is_compiled)
    for weights in ("", "bfloat16", "int8") for is_compiled in (False, True)
]  # fmt: skip
_BATCHES = 4


def main() -> None:
    parser = argparse.ArgumentParser(description="Times predictions in fewer bits.")
    parser.add_argument("--rounds", type=int, default=7, help="How often each variant is timed.")
    rounds = parser.parse_args().rounds
    print("| model | weights | XLA | speed | largest difference | same class |")
    print("|---|---|---|---|---|---|")
    for name, (make, batch) in _models().items():
        keras.utils.set_random_seed(1)
        model = make()
        x = np.concatenate([batch] * _BATCHES)
        for line in _lines(model, x, batch_size=len(batch), rounds=rounds):
            print(f"| {name} | {line}", flush=True)


def _models() -> dict[str, tuple[Callable[[], keras.Model], np.ndarray]]:
    draws = np.random.default_rng(0)
    pixels = draws.uniform(0, 16, (256, 8, 8)).astype("float32")
    letters = draws.integers(0, 96, (32, 96)).astype("int32")
    wide = draws.normal(size=(256, 1024)).astype("float32")
    digits, characters = _example("digits"), _example("characters")
    return {
        "digits (a CNN)": (digits["build_model"], pixels),
        "characters (a transformer)": (lambda: characters["build_model"](96, 96), letters),
        "MLP of 15 M parameters": (_mlp, wide),
    }


def _example(name: str) -> dict[str, Any]:
    flags.FLAGS.remove_flag_values(list(flags.FLAGS))  # each example has its own
    return runpy.run_path(str(_EXAMPLES / f"{name}.py"))


def _mlp() -> keras.Model:
    dense = [keras.layers.Dense(2048, activation="relu") for _ in range(4)]
    return keras.Sequential([keras.Input((1024,)), *dense, keras.layers.Dense(10)])


def _lines(model: keras.Model, x: np.ndarray, *, batch_size: int, rounds: int) -> list[str]:
    """Returns a line for each variant: speed over float32's, and how far the outputs are."""
    made, outputs = {}, {}
    for weights, is_compiled in _VARIANTS:
        copy = tfdist.inference.reduced(model, weights) if weights else _copied(model)
        copy.compile(jit_compile=False)
        copy.jit_compile = is_compiled
        if copy.jit_compile != is_compiled:
            continue
        made[weights, is_compiled] = copy
        outputs[weights, is_compiled] = np.asarray(_predict(copy, x, batch_size), np.float64)
    seconds: dict[Any, list[float]] = {variant: [] for variant in made}
    for _ in range(rounds):
        for variant, copy in made.items():
            start = time.process_time()
            _predict(copy, x, batch_size)
            seconds[variant].append(time.process_time() - start)
    plain = outputs["", False]
    lines = []
    for (weights, is_compiled), found in outputs.items():
        ratios = [
            one / two
            for one, two in zip(seconds["", False], seconds[weights, is_compiled], strict=True)
        ]
        off = np.abs(found - plain).max() / np.abs(plain).max()
        same = (found.argmax(axis=-1) == plain.argmax(axis=-1)).mean()
        lines.append(
            f"{weights or 'float32'} | {'yes' if is_compiled else 'no'} | "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f}) | {off:.0e} "
            f"| {100 * same:.1f} % |"
        )
    return lines


def _copied(model: keras.Model) -> keras.Model:
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def _predict(model: keras.Model, x: np.ndarray, batch_size: int) -> Any:
    return tfdist.predict(model, x, batch_size=batch_size, verbose=0, check=False)


if __name__ == "__main__":
    main()
