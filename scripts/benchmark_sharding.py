"""What does it cost, and save, to hold an optimizer's states in slices on two workers?

The suite `sharding` of benchmark.py; see there. Workers have one core each. Their times are of one
job, by turns; bytes are of a job each.
"""

from __future__ import annotations

import ctypes
import dataclasses
import gc
import pathlib
import re
import resource
from typing import Any

import benchmark_reduction

from tfdist import launch
from tfdist.cli import benchmark_slices
from tfdist.diagnostics import speed

_LAUNCHING: dict[str, Any] = {
    "threads": 1, "env": {"TF_CPP_MIN_LOG_LEVEL": "2"}, "timeout_secs": 900,
}  # fmt: skip
_STEPS = 12
_MB = 1e6
_TURNS = 3
_NAME = "MLP of 21 M parameters, Adam"


@dataclasses.dataclass(frozen=True)
class Held:
    """What training has left on a worker.

    Attributes:
        anonymous: Bytes of memory that the process has, without files, after it gave back what is
            free.
        peak: The most bytes that it had in memory in the steps, with files.
        received: Bytes that came in over TCP in a step.
    """

    anonymous: float
    peak: float
    received: float


def _adam() -> Any:
    import keras

    return keras.optimizers.Adam(1e-4, global_clipnorm=1.0)


def _case() -> tuple[Any, Any, Any]:
    """Returns what makes a compiled MLP of 21 M parameters, and rows for it."""
    import numpy as np

    return _mlp, np.zeros((64, 1024), "float32"), np.zeros(64)


def _mlp() -> Any:
    import keras

    model, _ = benchmark_reduction.mlp()
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(_adam(), loss)
    return model


def held(is_sharded: bool) -> Held:
    """Runs on each worker: trains, and returns what that has left."""
    import numpy as np

    import tfdist

    strategy = tfdist.get_strategy("cpu")
    with strategy.scope():
        model = _mlp()
    rows = 64 * strategy.num_replicas_in_sync
    x, y = np.zeros((_STEPS * rows, 1024), "float32"), np.zeros(_STEPS * rows)
    options: dict[str, Any] = {"batch_size": rows, "verbose": 0, "sharded_optimizer": is_sharded}
    tfdist.fit(model, x, y, **options)  # traces
    _trim()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = benchmark_reduction.bytes_received()
    tfdist.fit(model, x, y, **options)
    received = (benchmark_reduction.bytes_received() - before) / _STEPS
    peak = _status("VmHWM")
    _trim()
    return Held(_status("RssAnon"), peak, received)


def _trim() -> None:
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)


def _status(name: str) -> float:
    text = pathlib.Path("/proc/self/status").read_text()
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return 1024.0 * int(found[1]) if found else float("nan")


def transformer(width: int, depth: int, words: int) -> Any:
    """Returns a language model; 768 wide and 13 deep it has 95 M parameters."""
    import keras

    layers = keras.layers
    x = inputs = keras.Input((32,), dtype="int32")
    x = layers.Embedding(words, width)(x)
    for _ in range(depth):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(12, width // 12)(y, y, use_causal_mask=True)
        y = layers.Dense(4 * width, "gelu")(layers.LayerNormalization()(x))
        x = x + layers.Dense(width)(y)
    return keras.Model(inputs, layers.Dense(words)(layers.LayerNormalization()(x)))


def within(
    megabytes: int | None, is_sharded: bool, *, width: int = 768, depth: int = 13
) -> tuple[int, float]:
    """Runs on each worker: trains a transformer in so much memory for data.

    Returns:
        Its parameters, and the most megabytes that the process had in memory.
    """
    import keras
    import numpy as np

    import tfdist

    strategy = tfdist.get_strategy("cpu")
    if megabytes:
        resource.setrlimit(resource.RLIMIT_DATA, (megabytes * 2**20, megabytes * 2**20))
    with strategy.scope():
        model = transformer(width, depth, 2000)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(_adam(), loss)
    x = np.random.default_rng(0).integers(0, 2000, (8, 32))
    tfdist.fit(model, x, x, batch_size=4, verbose=0, sharded_optimizer=is_sharded)
    return model.count_params(), _status("VmHWM") / 2**20


def suite_sharding(rounds: int) -> list[speed.Ratio | speed.Cost]:
    """Compares training with states in slices with training without, on two workers.

    Args:
        rounds: Turns.
    """
    turns = benchmark_slices.turns(
        _case, workers=2, batch_size=128, steps=_STEPS, rounds=rounds, device="cpu", **_LAUNCHING
    )
    pairs = [(ours[0], theirs[0]) for ours, theirs in turns]
    share = [ours[1] / theirs[1] for ours, theirs in turns]
    found: list[speed.Ratio | speed.Cost] = [
        speed.ratio_of(f"{_NAME}, a step in slices / whole", pairs, target=0.95),
        speed.cost_of(f"{_NAME}, states a worker holds / all of them", share, target=0.51),
    ]
    kinds: dict[bool, list[Held]] = {True: [], False: []}
    for _ in range(min(rounds, _TURNS)):
        for is_sharded, jobs in kinds.items():
            jobs += launch.run(held, workers=2, args=(is_sharded,), **_LAUNCHING)
    ours, theirs = kinds[True], kinds[False]
    for name, told in (
        ("anonymous", "memory without files"), ("peak", "memory at the peak"),
        ("received", "received in a step"),
    ):
        for kind, jobs in (("in slices", ours), ("whole", theirs)):
            amounts = [getattr(job, name) / _MB for job in jobs]
            found.append(speed.cost_of(f"{_NAME}, {told} {kind}, MB", amounts))
    for result in found:
        print(result, flush=True)
    return found
