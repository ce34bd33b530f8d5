"""Does this model train the same on many devices as on one?  If not, where do they diverge?

Synopsis:

    tfdist verify --target=my_module:my_case --device=2xcpu

or `print(tfdist.verify(build_fn, x, y, device="2xcpu", steps=5))`: "agree to 2.2e-16", or the first
tensor that differs, by name and step.

Both runs take place in separate processes, so it works whatever state the caller's TensorFlow is
in, and in a notebook.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfdist import launch
from tfdist.diagnostics.recording import GROUPS, record

# Largest difference due to rounding, relative to the largest value of the tensor: sums of a few
# thousand terms, grouped differently, over a handful of steps.
_TOLERANCES = {"float64": 1e-9, "float32": 2e-4, "bfloat16": 5e-2, "float16": 2e-2}
_ROUNDINGS = 32  # units in the last place of the largest value of a group


@dataclasses.dataclass(frozen=True)
class Difference:
    """The first tensor on which two runs differ.

    Attributes:
        step: Number of the step, from 1; 0 for before any training.
        group: "loss", "gradient" (after the reduction), "weight", "state" or "metric".
        name: The variable's path, or the metric's name.
        worker: Rank of the worker that has the other value.
        expected: One device's value of the entry that differs most.
        found: The distributed run's.
        cause: The likely cause, and what to do.
    """

    step: int
    group: str
    name: str
    worker: int
    expected: float
    found: float
    cause: str


@dataclasses.dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        device: What the distributed run trained on, on each worker.
        workers: Workers of the distributed run.
        replicas: Replicas of all workers together.
        steps: Steps that were compared.
        largest: Largest relative difference up to the first one beyond rounding.
        difference: That first one; None where the runs agree.
    """

    device: str
    workers: int
    replicas: int
    steps: int
    largest: float
    difference: Difference | None

    @property
    def agrees(self) -> bool:
        """Whether the runs agree, to rounding."""
        return self.difference is None

    def __bool__(self) -> bool:
        return self.agrees

    def __str__(self) -> str:
        world = f"{self.replicas} replicas ({self.workers} x {self.device}) against one device"
        if self.difference is None:
            return f"agree to {self.largest:.1e}: {self.steps} steps on {world}"
        it = self.difference
        when = f"in step {it.step}" if it.step else "before training"
        return (
            f"DIFFER {when} on worker {it.worker}, first in the {it.group} {it.name!r}: "
            f"{it.found!r} instead of {it.expected!r}; {world}.\nLikely cause: {it.cause}"
        )


def verify(
    build_fn: Callable[[], Any],
    x: Any,
    y: Any = None,
    *,
    device: str = "2xcpu",
    workers: int = 1,
    steps: int = 5,
    batch_size: int = 32,
    sample_weight: Any = None,
    seed: int = 0,
    timeout_secs: float = 600.0,
) -> Report:
    """Trains a model on one device and distributed, and compares every tensor of every step.

    Loss, gradients after the reduction, weights, states (batch statistics, seed generators) and
    metrics are compared, on every replica of every worker, in the order in which they arise. The
    data is not shuffled; it is repeated if it has fewer batches than steps.

    Args:
        build_fn: Returns a compiled model, or a `tfdist.Trainer`. Called without arguments in the
            strategy's scope, after `keras.utils.set_random_seed(seed)`.
        x: Arrays, as in `fit`.
        y: Targets.
        device: What each worker of the distributed run trains on; see `get_strategy`.
        workers: Worker processes of the distributed run.
        steps: Steps to compare.
        batch_size: Global batch: examples per step over all replicas. A size that is not a multiple
            of the replicas reveals more.
        sample_weight: Weights, as in `fit`.
        seed: Seed of both runs.
        timeout_secs: Longest time for each run, in seconds.

    Returns:
        The report; printing it gives a readable summary.

    Raises:
        RuntimeError: A run failed; the message holds its traceback.
    """
    options = {
        "seed": seed, "steps": steps, "batch_size": batch_size,
        "floatx": keras.config.floatx(),
    }
    data = (x, y, sample_weight)

    def run(device: str, workers: int) -> list[dict[str, Any]]:
        return launch.run(
            record, workers=workers, args=(build_fn, data, options | {"device": device}),
            timeout_secs=timeout_secs,
        )

    uneven = UnevenBatches(rows=_rows(x), batch_size=batch_size)
    return compare(run, device=device, workers=workers, batches=uneven)


@dataclasses.dataclass(frozen=True)
class UnevenBatches:
    """How the batches of the data differ in size.

    Attributes:
        rows: Of one pass over the data.
        batch_size: Of all batches but the last one.
    """

    rows: int
    batch_size: int

    def is_uneven(self, step: int, *, replicas: int) -> bool:
        """Tells whether the replicas held unequal shares of the batch of a step, from 1."""
        start = (step - 1) * self.batch_size
        start %= -(-self.rows // self.batch_size) * self.batch_size
        return min(self.batch_size, self.rows - start) % replicas > 0


def compare(
    run: Callable[[str, int], list[dict[str, Any]]],
    *,
    device: str,
    workers: int,
    batches: UnevenBatches | None = None,
) -> Report:
    """Runs something on one device and distributed, and compares what was recorded.

    Args:
        run: Takes a device and a number of workers; returns each worker's record.
        device: As in `verify`.
        workers: As in `verify`.
        batches: Of the data; None if unknown.
    """
    (expected,) = run("cpu", 1)
    found = run(device, workers)
    largest, where = _compare(expected["steps"], [worker["steps"] for worker in found])
    if where is not None:
        again = None if where["step"] == 0 else run("cpu", 1)[0]
        is_random = again is not None and _compare(expected["steps"], [again["steps"]])[1]
        where["cause"] = _cause(where, found[0], is_random=bool(is_random), batches=batches)
    return Report(
        device=device, workers=workers, replicas=found[0]["replicas"],
        steps=len(expected["steps"]) - 1, largest=largest,
        difference=Difference(**{f.name: where[f.name] for f in dataclasses.fields(Difference)})
        if where else None,
    )


def _rows(x: Any) -> int:
    return int(keras.tree.flatten(x)[0].shape[0])


def _compare(expected: list[Any], found: list[list[Any]]) -> tuple[float, dict[str, Any] | None]:
    """Returns the largest difference up to the first one beyond rounding, and that one."""
    largest = 0.0
    for step, reference in enumerate(expected):
        for key in sorted(reference, key=lambda key: (GROUPS.index(key[0]), key[1])):
            for worker, steps in enumerate(found):
                one, rows = reference[key], steps[step][key] if step < len(steps) else None
                if rows is None:
                    rows = np.full_like(one, np.nan)
                relative, at = _relative(one, rows)
                if relative > _tolerance(one):
                    gap = np.abs(np.broadcast_to(one, rows.shape)[at] - rows[at])
                    if gap <= _rounding(reference, key[0]):
                        continue
                    here = {"step": step, "group": key[0], "name": key[1], "worker": worker}
                    values = {"expected": float(np.broadcast_to(one, rows.shape)[at]),
                              "found": float(rows[at])}
                    return largest, here | values
                largest = max(largest, relative)
    return largest, None


def _tolerance(values: np.ndarray) -> float:
    return _TOLERANCES.get(str(values.dtype), 0.0)


def _rounding(reference: dict[Any, np.ndarray], group: str) -> float:
    """Returns what rounding may leave of a value in a group: of sums that cancel out, say.

    The gradient of a bias before a normalization is zero but for rounding, and another number each
    time it is summed in another order. What is rounded are summands of the size of other values.
    """
    values = [value for key, value in reference.items() if key[0] == group and value.size]
    found = [value[np.isfinite(value)] for value in values if value.dtype.kind == "f"]
    largest = max((float(np.max(np.abs(value), initial=0.0)) for value in found), default=0.0)
    return max((_ROUNDINGS * float(np.finfo(v.dtype).eps) * largest for v in found), default=0.0)


def _relative(one: np.ndarray, rows: np.ndarray) -> tuple[float, Any]:
    """Returns the largest difference in units of the largest value, and its index in `rows`."""
    one, rows = np.asarray(one, np.float64), np.asarray(rows, np.float64)
    with np.errstate(invalid="ignore"):  # an infinity that is right on both sides
        gap = np.abs(one - rows)
    same = (one == rows) | (np.isnan(one) & np.isnan(rows))
    gap = np.where(same, 0.0, np.where(np.isnan(gap), np.inf, gap))
    if gap.size == 0:
        return 0.0, ()
    at = np.unravel_index(int(np.argmax(gap)), gap.shape)
    scale = float(np.max(np.abs(one), initial=0.0, where=np.isfinite(one)))
    return float(gap[at]) / (scale if scale > 0 else 1.0), at


def _cause(
    where: dict[str, Any],
    world: dict[str, Any],
    *,
    is_random: bool,
    batches: UnevenBatches | None,
) -> str:
    replicas, step = world["replicas"], where["step"]
    if step == 0:
        return (
            "an assignment from a local random generator: this value does not come from the seed. "
            "Let initializers set it in the scope, or draw it from the same seed on every worker."
        )
    if is_random:
        return (
            "unseeded randomness: two runs on one device differ as well. Draw with keras.random "
            "and a keras.random.SeedGenerator, not with NumPy or tf.random."
        )
    if world["plain_batch_norm"]:
        return (
            f"plain BatchNormalization ({', '.join(world['plain_batch_norm'])}) normalizes each "
            "replica's rows by themselves. Use BatchNormalization(synchronized=True)."
        )
    ratio = where["found"] / where["expected"] if where["expected"] else 0.0
    if where["group"] == "gradient" and abs(ratio - replicas) < 1e-3 * replicas:
        return (
            f"gradients were summed twice: this one is {replicas} times too large. Leave the "
            "reduction to apply_gradients or optimizer.apply, which sum over the replicas."
        )
    is_uneven = batches is None or batches.is_uneven(step, replicas=replicas)
    if is_uneven and where["group"] in ("loss", "metric"):
        return (
            "a loss or metric that averages over the local batch: the replicas hold unequal shares "
            "of this batch, so a mean of their means is no mean. Divide sums by the global batch, "
            "as tfdist.average_loss does."
        )
    if where["group"] == "gradient":
        return (
            "gradients were changed before they were summed (clipped or normalized per replica), "
            "or the loss averages over the local batch. Use the optimizer's clipnorm, clipvalue or "
            "global_clipnorm, which act on the sum, and tfdist.average_loss."
        )
    return (
        f"the {where['group']} is computed from one replica's rows in a way that does not add up, "
        "such as a sum over the batch that counts as a mean. Divide sums by the global batch."
    )
