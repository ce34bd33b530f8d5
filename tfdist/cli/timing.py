"""How long does a step take, without what a call of `fit` begins with?"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def time_fit(make: Callable[[], Any], batch_size: int, steps: int, device: str) -> float:
    """Runs on each worker: returns the seconds of a step.

    The difference between a long and a short call of `fit`, divided by the steps between them.

    Args:
        make: Returns `(build_fn, x, y)`.
        batch_size: The global batch.
        steps: By which the calls differ.
        device: As in `get_strategy`.
    """
    build_fn, x, y = make()
    return secs_of_step(_built(build_fn, device), x, y, batch_size=batch_size, steps=steps)


def time_turns(
    make: Callable[[], Any], batch_size: int, steps: int, device: str, rounds: int,
    kinds: Sequence[Mapping[str, Any]], after: Callable[[Any], int],
) -> list[list[tuple[float, int]]]:
    """Runs on each worker: times one model with one set of options after the other, by turns.

    In one process, since two that do the same may differ by a third for all of their lives, and
    with one model, since there may be no memory for two.

    Args:
        make: As in `time_fit`, as are all arguments below but the last three.
        batch_size: As there.
        steps: As there.
        device: As there.
        rounds: Turns.
        kinds: Sets of options of `fit`.
        after: What else is wanted of the model with each set.

    Returns:
        For each turn, and each set, the seconds of a step and what `after` found.
    """
    build_fn, x, y = make()
    model, found = _built(build_fn, device), []
    for number in range(rounds):
        turn = {}
        for index in range(len(kinds)) if number % 2 else reversed(range(len(kinds))):
            secs = secs_of_step(model, x, y, batch_size=batch_size, steps=steps, **kinds[index])
            turn[index] = secs, after(model)
        found.append([turn[index] for index in range(len(kinds))])
    return found


def secs_of_step(
    model: Any, x: Any, y: Any, *, batch_size: int, steps: int, **options: Any
) -> float:
    """Returns the seconds of a step of a model, by a long and a short call of `fit`."""
    import keras
    import numpy as np

    from tfdist.training import fitting

    def rows(count: int) -> Any:
        wanted = np.arange(count * batch_size)
        return keras.tree.map_structure(lambda leaf: np.take(leaf, wanted % len(leaf), 0), (x, y))

    short, long = rows(2), rows(2 + steps)
    secs = []
    for x_now, y_now in (short, short, long):
        start = time.perf_counter()
        fitting.fit(
            model, x_now, y_now, batch_size=batch_size, shuffle=False, verbose=0, **options
        )
        secs.append(time.perf_counter() - start)
    return max(secs[2] - secs[1], 1e-9) / steps


def _built(build_fn: Callable[[], Any], device: str) -> Any:
    from tfdist.strategy import factory

    with factory.get_strategy(device).scope():
        return build_fn()
