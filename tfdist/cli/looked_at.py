"""Which model and batch does a command look at?  A program's first, a named function's, or ours."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

from tfdist.cli import first_fit
from tfdist.cli.named_functions import function_of
from tfdist.launch.command_line import CommandLine


@dataclasses.dataclass(frozen=True)
class Looked:
    """What a command looks at.

    Attributes:
        model: A compiled Keras model.
        batch: `(x, y)` or `(x, y, sample_weight)` of some rows; None where the model tells.
        batch_size: The global batch of a program's `fit`; None where there is no program.
    """

    model: Any
    batch: Any = None
    batch_size: int | None = None


def look(
    line: CommandLine,
    rest: Sequence[str],
    *,
    target: str | None,
    instead: Callable[[], Any],
    device: str | None,
) -> Looked:
    """Returns the model and its batch; ends the command with 2 where they are not there.

    Args:
        line: The command's.
        rest: The program and its arguments, if there is one.
        target: A function's name, if there is one; it returns a model, or `(model, batch)`.
        instead: Makes the model where there is neither.
        device: What it is made on, as in `get_strategy`; None for no strategy at all.

    Raises:
        ValueError: The program does not train by `fit`, or its data cannot be looked at.
    """
    refuse_two(line, rest, target)
    if rest:
        if not os.path.isfile(rest[0]):
            line.refuse(f"program={rest[0]!r} is not there; give the path of a Python program")
        found: Looked = first_fit.look_at_first_fit(
            rest[0], rest[1:], _look, device=device or "cpu"
        )
        return found
    make = target_of(line, target, instead)
    with _scope(device):
        made = make()
    return Looked(*made) if isinstance(made, tuple) else Looked(made)


def refuse_two(line: CommandLine, rest: Sequence[str], target: str | None) -> None:
    """Ends a command that was given a program and a function; arguments as in `look`."""
    if rest and target:
        line.refuse(f"--target={target} and the program {rest[0]!r} are two; give one")


def target_of(
    line: CommandLine, target: str | None, instead: Callable[[], Any]
) -> Callable[[], Any]:
    """Returns the function that --target names, or `instead`; ends the command where it is none."""
    try:
        return function_of(target) if target else instead
    except ValueError as error:
        line.refuse(f"--target={error}")


def _look(trainer: Any, given: dict[str, Any]) -> Looked:
    batch, size = first_fit.sample_of(given)
    return Looked(trainer.model, batch, size)


def _scope(device: str | None) -> contextlib.AbstractContextManager[Any]:
    if device is None:
        return contextlib.nullcontext()
    from tfdist.strategy import factory

    scope: contextlib.AbstractContextManager[Any] = factory.get_strategy(device).scope()
    return scope


# ------------------------------------------------------------ ours, where nothing else is named


def network() -> Any:
    """Returns a compiled network for the digits, small enough for any compiler."""
    import keras

    layers = keras.layers
    made = keras.Sequential(
        [keras.Input((8, 8)), layers.Flatten(), layers.Dense(128, activation="relu"),
         layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    return made


def network_with_dropout() -> Any:
    """Returns a compiled network with dropout and clipping, so that more can go wrong."""
    import keras

    layers = keras.layers
    made = keras.Sequential(
        [keras.Input((8, 8)), layers.Flatten(), layers.Rescaling(1 / 16),
         layers.Dense(16, activation="tanh"), layers.Dropout(0.2), layers.Dense(10)]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    made.compile(keras.optimizers.Adam(0.01, clipnorm=0.1), loss, metrics=["accuracy"])
    return made


def case_of_digits() -> tuple[Any, Any, Any]:
    """Returns what builds the network with dropout, and some digits in Keras's precision."""
    import keras

    from tfdist import datasets

    (x, y), _ = datasets.load_digits()
    return network_with_dropout, x[:150].astype(keras.config.floatx()), y[:150]
