"""How much faster does training get with more workers here?

    tfdist benchmark
    tfdist benchmark --workers=1,2,4 --rounds=5 --output=speed.json
    tfdist benchmark --suite=sharding --workers=2
    tfdist benchmark --target=my_module:my_case --global_batch_size=256

The model trains on each number of workers by turns, since the speed of a shared machine changes
from minute to minute. Printed are examples a second over all workers, the speed-up, and the median
and quartiles of all rounds. The global batch grows with the workers, so that each keeps its own
(--strong keeps the global one). With --target, `my_case()` returns `(build_fn, x, y)`; without, a
small CNN is timed.

--suite=sharding compares training with the optimizer in slices, `sharded_optimizer=True`, with
training with a whole one, on the largest of these numbers: the time of a step, and the bytes of
states that a worker holds. Without --target that is an MLP with Adam.

Exit code 0, or 2 for wrong flags or a model that does not train.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from absl import flags

from tfdist import launch
from tfdist.cli import benchmark_slices
from tfdist.cli.looked_at import target_of
from tfdist.cli.timing import time_fit
from tfdist.launch.command_line import CommandLine


@dataclasses.dataclass(frozen=True)
class Speed:
    """How fast training is on a number of workers; over all of them, medians of the rounds."""

    workers: int
    global_batch_size: int
    examples_per_sec: float
    low: float  # quartiles of the examples a second
    high: float
    speed_up: float  # over the first number of workers that was asked for


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code, as the file's docstring says.
    """
    line = _make_line()
    line.parse_flags_alone(argv)
    given = line.flags
    try:
        numbers = [int(text) for text in given.workers]
    except ValueError:
        numbers = []
    if not numbers or min(numbers) < 1:
        line.refuse(f"--workers={','.join(given.workers)} must be numbers from 1, as in 1,2,4")
    is_sharding = given.suite == "sharding"
    if is_sharding and max(numbers) < 2:
        line.refuse("--suite=sharding needs two workers or more, as in --workers=2")
    make = target_of(line, given.target, benchmark_slices.mlp_case if is_sharding else cnn_case)
    try:
        if is_sharding:
            slices = benchmark_slices.compare(
                make, workers=max(numbers), batch_size=given.global_batch_size * (
                    1 if given.strong else max(numbers)
                ), steps=given.steps, rounds=given.rounds, device=given.device,
            )
            _write(given.output, {"slices": dataclasses.asdict(slices)})
            return 0
        found = measure(
            make, numbers, batch_size=given.global_batch_size, is_strong=given.strong,
            steps=given.steps, rounds=given.rounds, device=given.device,
        )
    except (RuntimeError, ValueError) as error:
        return line.failed(error)
    _write(given.output, {"speeds": [dataclasses.asdict(speed) for speed in found]})
    return 0


def _write(path: str | None, found: dict[str, Any]) -> None:
    if path:
        pathlib.Path(path).write_text(json.dumps(found, indent=1))


def measure(
    make: Callable[[], Any],
    numbers: Sequence[int],
    *,
    batch_size: int,
    is_strong: bool,
    steps: int,
    rounds: int,
    device: str,
) -> list[Speed]:
    """Times training on each number of workers, by turns, and prints a line for each.

    Args:
        make: Returns `(build_fn, x, y)`.
        numbers: Of workers.
        batch_size: The global batch of one worker.
        is_strong: Whether the global batch stays as it is.
        steps: Of one timing.
        rounds: Turns.
        device: What each worker trains on.
    """
    batches = {n: batch_size * (1 if is_strong else n) for n in numbers}
    rates: dict[int, list[float]] = {n: [] for n in numbers}
    for _ in range(rounds):
        for n in numbers:
            secs = launch.run(time_fit, workers=n, args=(make, batches[n], steps, device))
            rates[n].append(batches[n] / max(map(float, secs)))
    first = statistics.median(rates[numbers[0]])
    found = []
    for n in numbers:
        # Loaded here, since help on a command must not wait for TensorFlow.
        from tfdist.diagnostics.speed import quartiles

        low, median, high = quartiles(rates[n])
        found.append(Speed(n, batches[n], median, low, high, median / first))
        print(f"{n} worker(s), global batch {batches[n]}: {median:,.0f} examples a second "
              f"({low:,.0f} to {high:,.0f}), {median / first:.2f} times that of {numbers[0]}",
              flush=True)
    return found


def cnn_case() -> tuple[Any, Any, Any]:
    """Returns a CNN that computes much and sums little, and images for it."""
    import numpy as np

    return _cnn, np.zeros((64, 32, 32, 3), "float32"), np.zeros(64, "int32")


def _cnn() -> Any:
    import keras

    layers = keras.layers
    model = keras.Sequential(
        [keras.Input((32, 32, 3)), layers.Conv2D(32, 3, activation="relu"),
         layers.Conv2D(32, 3, activation="relu"), layers.MaxPooling2D(),
         layers.Conv2D(64, 3, activation="relu"), layers.GlobalAveragePooling2D(),
         layers.Dense(10)]
    )
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _make_line() -> CommandLine:
    line = CommandLine("tfdist benchmark", "[--workers=1,2] [flags]", text=__doc__)
    own = {"flag_values": line.flags}
    flags.DEFINE_enum("suite", "scaling", ("scaling", "sharding"), "What is compared.", **own)
    flags.DEFINE_list("workers", ["1", "2"], "Numbers of workers, the first to compare with.",
                      **own)
    flags.DEFINE_string("target", None, "module:function that returns (build_fn, x, y).", **own)
    flags.DEFINE_string("device", "cpu", "What each worker trains on, as in tfdist.get_strategy.",
                        **own)
    flags.DEFINE_integer(
        "global_batch_size", 64, "Examples per step of one worker.", lower_bound=1, **own
    )
    flags.DEFINE_boolean("strong", False, "Whether the global batch stays as it is.", **own)
    flags.DEFINE_integer("steps", 20, "Steps of one timing.", lower_bound=1, **own)
    flags.DEFINE_integer("rounds", 3, "Turns.", lower_bound=1, **own)
    flags.DEFINE_string("output", None, "A JSON file to write, besides what is printed.", **own)
    return line
