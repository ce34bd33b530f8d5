"""What does an optimizer in slices cost, and save, on this machine?  `--suite=sharding`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

from tfdist import launch
from tfdist.cli.timing import time_fit


@dataclasses.dataclass(frozen=True)
class Slices:
    """Training with an optimizer in slices against training with a whole one, medians of turns."""

    workers: int
    global_batch_size: int
    secs: float  # of a step
    secs_whole: float
    state_bytes: int  # of the optimizer's variables that a worker holds
    state_bytes_whole: int


def compare(
    make: Callable[[], Any], *, workers: int, batch_size: int, steps: int, rounds: int, device: str
) -> Slices:
    """Times both on one number of workers, by turns, and prints what was found.

    Args:
        make: Returns `(build_fn, x, y)`.
        workers: Number of workers, from 2.
        batch_size: The global batch.
        steps: Of one timing.
        rounds: Turns.
        device: What each worker trains on.
    """
    secs: dict[bool, list[float]] = {True: [], False: []}
    held: dict[bool, int] = {}
    for number in range(rounds):
        for is_sharded in (True, False) if number % 2 else (False, True):
            args = (make, batch_size, steps, device, is_sharded)
            found = launch.run(time_and_hold, workers=workers, args=args)
            secs[is_sharded].append(max(one for one, _ in found))  # the slower worker counts
            held[is_sharded] = max(bytes_held for _, bytes_held in found)
    done = Slices(
        workers, batch_size, statistics.median(secs[True]), statistics.median(secs[False]),
        held[True], held[False],
    )
    print(
        f"{workers} worker(s), global batch {batch_size}: {1000 * done.secs:.1f} ms a step in "
        f"slices, {1000 * done.secs_whole:.1f} whole ({done.secs / done.secs_whole:.2f}); "
        f"{done.state_bytes / 1e6:.2f} MB of states a worker, {done.state_bytes_whole / 1e6:.2f} "
        f"whole ({done.state_bytes / max(1, done.state_bytes_whole):.2f})",
        flush=True,
    )
    return done


def time_and_hold(
    make: Callable[[], Any], batch_size: int, steps: int, device: str, is_sharded: bool
) -> tuple[float, int]:
    """Runs on each worker: returns the seconds of a step, and the bytes of states that it holds."""
    from tfdist.sharding import shards

    secs, model = time_fit(make, batch_size, steps, device, sharded_optimizer=is_sharded)
    own = shards.of(model.optimizer)
    whole = sum(variable.numpy().nbytes for variable in model.optimizer.variables)
    return secs, own.held_bytes if own else whole


def mlp_case() -> tuple[Any, Any, Any]:
    """Returns an MLP of 4 M parameters with Adam, whose states count, and rows for it."""
    import numpy as np

    return _mlp, np.zeros((64, 512), "float32"), np.zeros(64, "int32")


def _mlp() -> Any:
    import keras

    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((512,)), dense(2048, "relu"), dense(1400), dense(10)])
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model
