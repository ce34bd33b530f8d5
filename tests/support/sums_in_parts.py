"""Are sums of which each replica holds a part, once they are whole again, exact?

NumPy is the oracle.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

import tfdist
from tfdist import testing
from tfdist.communication.compression import Reduction

# Of awkward sizes, of three types, and one that travels alone, in more than a message.
SHAPES = [((3,), "float64"), ((5, 2), "float32"), ((1,), "float64"), ((2, 3), "bfloat16"),
          ((1100, 2000), "float32"), ((7,), "float32")]  # fmt: skip

#: Takes a strategy, and returns what holds sums in parts, and a function of the replicas' tensors
#: and a reduction that returns their sums, whole.
Summing = Callable[[tf.distribute.Strategy], tuple[Any, Callable[[Any, Reduction], Any]]]


def differences(
    summing: Summing, strategy: Any, reduction: Reduction | None = None, *, by_sums: bool = False
) -> list[float]:
    """Returns the largest error of each tensor.

    Args:
        summing: What is tested.
        strategy: Of two or three replicas.
        reduction: How tensors travel.
        by_sums: Whether parts are exchanged by sums, as workers that have GPUs do.
    """
    replicas = strategy.num_replicas_in_sync
    assert replicas > 1
    held, summed = summing(strategy)
    if by_sums:
        held._exchange.is_direct = False

    def on_replica() -> Any:
        context = tf.distribute.get_replica_context()
        drawn = tf.stack([0, 1, 2])[context.replica_id_in_sync_group]
        every = [[tf.constant(v[i], d) for v in map(_values, range(3))]
                 for i, (_, d) in enumerate(SHAPES)]
        return [tf.stack(of_replicas)[drawn] for of_replicas in every]

    @tf.function(autograph=False)
    def run() -> Any:
        return summed(strategy.run(on_replica), reduction or Reduction())

    sums = [sum(of_all) for of_all in zip(*map(_values, range(replicas)), strict=True)]
    return [
        float(np.max(np.abs(np.asarray(mine, "float64") - theirs)))
        for mine, theirs in zip(run(), sums, strict=True)
    ]


def differences_of_workers(summing: Summing) -> list[list[list[float]]]:
    """Returns those of each of two workers, for three ways to exchange parts."""
    return testing.run_workers(
        functools.partial(_on_a_worker, summing), workers=2, threads=1
    )


def _on_a_worker(summing: Summing) -> list[list[float]]:
    strategy = tfdist.get_strategy("cpu")
    return [
        differences(summing, strategy),
        differences(summing, strategy, by_sums=True),
        differences(summing, strategy, Reduction("bfloat16")),
    ]


def _values(replica: int) -> list[np.ndarray]:
    """Returns small whole numbers, whose sums are exact in bfloat16."""
    rng = np.random.default_rng(replica)
    return [rng.integers(-9, 9, shape).astype("float64") for shape, _ in SHAPES]
