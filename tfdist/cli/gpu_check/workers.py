"""Do two workers with a GPU each give what one device gives?  Over NCCL, as on two hosts.

On a CPU the two workers meet over gRPC, as a test of this check.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from tfdist import launch
from tfdist.cli.gpu_check import parity, training
from tfdist.cli.gpu_check.models import small_cases
from tfdist.cli.gpu_check.rows import LEFT_OUT, WRONG, Row, judged, told_of
from tfdist.cli.gpu_check.setting import Setting, physical_gpus

_SECS = 150.0
_ASKED: dict[str, dict[str, Any]] = {"": {}, ", states in slices": {"sharded_optimizer": True}}


def rows(setting: Setting) -> Iterator[Row]:
    """Gives the rows of this part."""
    if setting.is_gpu and len(physical_gpus()) < 2:
        yield Row(LEFT_OUT, "two workers, NCCL", "one GPU is here, and NCCL needs two")
        return
    for told, options in _ASKED.items():
        what = f"CNN on two workers{told}, {'NCCL' if setting.is_gpu else 'gRPC'}, float32"
        try:
            found = launch.run(
                trained, workers=2, args=(setting, options), timeout_secs=_SECS,
            )
        except Exception as error:  # of whatever kind: the other rows are wanted too
            yield told_of(what, error)
            continue
        if any(replicas != 2 for replicas, _ in found):
            yield Row(WRONG, what, f"replicas of each: {[replicas for replicas, _ in found]}")
            continue
        expected = parity.oracle(setting, "CNN")
        largest = max(
            expected.off(training.Weights(expected.before, weights, 0.0)) for _, weights in found
        )
        yield judged(what, largest, limit=parity.FLOAT32.limit)


def trained(setting: Setting, options: dict[str, Any]) -> tuple[int, list[np.ndarray]]:
    """Runs on each worker: trains the CNN; returns the replicas of all, and the weights."""
    import tensorflow as tf

    from tfdist.strategy import factory

    strategy = factory.get_strategy(setting.kind)
    tf.config.experimental.enable_tensor_float_32_execution(False)
    found = training.by_tfdist(
        small_cases()["CNN"], parity.oracle(setting, "CNN").before, device=setting.kind,
        policy="float32", **options,
    )
    return strategy.num_replicas_in_sync, found.after
