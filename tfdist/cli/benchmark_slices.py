"""What does an optimizer in slices cost, and save, on this machine?  `--suite=sharding`."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable
from typing import Any

from tfdist import launch
from tfdist.cli.timing import time_turns

#: Options of `fit`.
KINDS = ({"sharded_optimizer": True}, {"sharded_optimizer": False})


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
    found = turns(
        make, workers=workers, batch_size=batch_size, steps=steps, rounds=rounds, device=device
    )
    secs, secs_whole = (statistics.median(turn[kind][0] for turn in found) for kind in range(2))
    held, held_whole = (found[-1][kind][1] for kind in range(2))
    done = Slices(workers, batch_size, secs, secs_whole, held, held_whole)
    print(
        f"{workers} worker(s), global batch {batch_size}: {1000 * done.secs:.1f} ms a step in "
        f"slices, {1000 * done.secs_whole:.1f} whole ({done.secs / done.secs_whole:.2f}); "
        f"{done.state_bytes / 1e6:.2f} MB of states a worker, {done.state_bytes_whole / 1e6:.2f} "
        f"whole ({done.state_bytes / max(1, done.state_bytes_whole):.2f})",
        flush=True,
    )
    return done


def turns(
    make: Callable[[], Any], *, workers: int, batch_size: int, steps: int, rounds: int,
    device: str, **launching: Any,
) -> list[list[tuple[float, int]]]:
    """Times both kinds on one job of workers, by turns.

    Args:
        make: As in `compare`, as are all others but the last.
        workers: As there.
        batch_size: As there.
        steps: As there.
        rounds: As there.
        device: As there.
        **launching: Of `launch.run`.

    Returns:
        For each turn, with an optimizer in slices and with a whole one, the seconds of a step and
        the bytes of states that a worker holds: of the slower worker, and of the fuller.
    """
    args = (make, batch_size, steps, device, rounds, KINDS, held_bytes)
    of_workers = launch.run(time_turns, workers=workers, args=args, **launching)
    return [
        [tuple(map(max, zip(*kind, strict=True))) for kind in zip(*turn, strict=True)]
        for turn in zip(*of_workers, strict=True)
    ]


def held_bytes(model: Any) -> int:
    """Returns the bytes of an optimizer's states that a worker holds."""
    from tfdist.sharding import shards

    own = shards.of(model.optimizer)
    return own.held_bytes if own else sum(v.numpy().nbytes for v in model.optimizer.variables)


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
