"""How is a model trained by stock Keras, and by tfdist?  From the same weights and rows."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import pathlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfdist.cli.gpu_check.models import Case
from tfdist.strategy import factory
from tfdist.training import fitting

_BATCH, _EPOCHS, _RATE = 16, 3, 0.05
# So that no gradient of these models overflows in float16: a step left out is another result.
_LOSS_SCALE = 2.0**7


@dataclasses.dataclass(frozen=True)
class Weights:
    """The weights of a model before and after training, in the order of `get_weights`.

    Attributes:
        before: As they began.
        after: As they ended.
        loss: The last epoch's.
    """

    before: list[np.ndarray]
    after: list[np.ndarray]
    loss: float

    def off(self, other: Weights) -> float:
        """Returns the largest difference to another end, in units of the largest change.

        A mistake in the sum of gradients is of the size of 1, whatever the type of the numbers.
        """
        pairs = zip(self.before, self.after, other.after, strict=True)
        moved = gap = 0.0
        for start, end, found in pairs:
            moved = max(moved, float(np.max(np.abs(end - start), initial=0.0)))
            here = np.abs(np.asarray(found, np.float64) - end)
            gap = max(gap, float(np.max(np.where(np.isnan(here), np.inf, here), initial=0.0)))
        return gap / moved if moved else float("nan")

    def save(self, path: pathlib.Path) -> None:
        """Writes them to a file."""
        named = {f"before{i}": value for i, value in enumerate(self.before)}
        named |= {f"after{i}": value for i, value in enumerate(self.after)}
        np.savez(path, loss=self.loss, **named)  # type: ignore[arg-type]


def load(path: str | os.PathLike[str]) -> Weights:
    """Reads what `Weights.save` has written."""
    with np.load(path) as found:
        count = sum(name.startswith("before") for name in found.files)
        before = [found[f"before{i}"] for i in range(count)]
        after = [found[f"after{i}"] for i in range(count)]
        return Weights(before, after, float(found["loss"]))


@contextlib.contextmanager
def typed(policy: str) -> Iterator[None]:
    """Makes layers of a type inside of a `with` block; float64 is that of losses then, too."""
    known = keras.config.dtype_policy(), keras.config.floatx()
    keras.config.set_floatx("float64" if policy == "float64" else "float32")
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(known[0])
        keras.config.set_floatx(known[1])


def by_keras(case: Case) -> Weights:
    """Trains a case by stock Keras on one device, in float64: the oracle."""
    with typed("float64"):
        keras.utils.set_random_seed(0)
        model = case.make()
        before = model.get_weights()
        _compile(model, is_half=False, has_xla=False)
        history = model.fit(case.x, case.y, **_options())
    return Weights(before, model.get_weights(), history.history["loss"][-1])


def by_tfdist(
    case: Case, before: list[np.ndarray], *, device: str, policy: str, has_xla: bool = False,
    **options: Any,
) -> Weights:
    """Trains a case by tfdist.

    Args:
        case: The case.
        before: The weights to begin with.
        device: As in `get_strategy`.
        policy: The name of a dtype policy of Keras.
        has_xla: Whether XLA compiles the step.
        **options: Further ones of `fit`.
    """
    with typed(policy):
        with factory.get_strategy(device).scope():
            model = case.make()
            _compile(model, is_half=policy == "mixed_float16", has_xla=has_xla)
        model.set_weights(before)
        x = case.x.astype(keras.config.floatx()) if case.x.dtype.kind == "f" else case.x
        history = fitting.fit(model, x, case.y, **_options(), **options)
    return Weights(before, model.get_weights(), history.history["loss"][-1])


def _compile(model: Any, *, is_half: bool, has_xla: bool) -> None:
    optimizer = keras.optimizers.SGD(_RATE, momentum=0.9, global_clipnorm=1.0)
    if is_half:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=_LOSS_SCALE)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=has_xla)


def _options() -> dict[str, Any]:
    return {"batch_size": _BATCH, "epochs": _EPOCHS, "shuffle": False, "verbose": 0}
