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
import time
from typing import Any

import benchmark_reduction

from tfdist import launch
from tfdist.diagnostics import speed

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}
_STEPS = 12
_MB = 1e6
_TURNS = 3
_NAME = "MLP of 21 M parameters, Adam"


@dataclasses.dataclass(frozen=True)
class Held:
    """What training has left on a worker.

    Attributes:
        states: Bytes of the optimizer's variables.
        anonymous: Bytes of memory that the process has, without files, after it gave back what is
            free.
        peak: The most bytes that it had in memory in the steps, with files.
        received: Bytes that came in over TCP in a step.
    """

    states: float
    anonymous: float
    peak: float
    received: float


def _adam() -> Any:
    import keras

    return keras.optimizers.Adam(1e-4, global_clipnorm=1.0)


def _mlp(strategy: Any) -> tuple[Any, Any, Any, int]:
    """Returns a compiled MLP of 21 M parameters, data for it, and its batch."""
    import keras
    import numpy as np

    with strategy.scope():
        model, shape = benchmark_reduction.mlp()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(_adam(), loss)
    rows = 64 * strategy.num_replicas_in_sync
    return model, np.zeros((_STEPS * rows, *shape), "float32"), np.zeros(_STEPS * rows), rows


def times(rounds: int) -> list[tuple[float, float]]:
    """Runs on each worker: returns the seconds of a step with slices, and without, by turns."""
    import tfdist

    strategy = tfdist.get_strategy("cpu")
    models = {is_sharded: _mlp(strategy) for is_sharded in (True, False)}

    def step_secs(is_sharded: bool) -> float:
        model, x, y, rows = models[is_sharded]
        start = time.perf_counter()
        tfdist.fit(model, x, y, batch_size=rows, verbose=0, sharded_optimizer=is_sharded)
        return (time.perf_counter() - start) / _STEPS

    found = []
    for number in range(1 + rounds):
        order = (True, False) if number % 2 else (False, True)
        secs = {is_sharded: step_secs(is_sharded) for is_sharded in order}
        found.append((secs[True], secs[False]))
    return found[1:]  # the first one traces


def held(is_sharded: bool) -> Held:
    """Runs on each worker: trains, and returns what that has left."""
    import tfdist
    from tfdist.sharding import shards

    strategy = tfdist.get_strategy("cpu")
    model, x, y, rows = _mlp(strategy)
    options: dict[str, Any] = {"batch_size": rows, "verbose": 0, "sharded_optimizer": is_sharded}
    tfdist.fit(model, x, y, **options)  # traces
    _trim()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = benchmark_reduction.bytes_received()
    tfdist.fit(model, x, y, **options)
    received = (benchmark_reduction.bytes_received() - before) / _STEPS
    peak = _status("VmHWM")
    _trim()
    own = shards.of(model.optimizer)
    states = own.held_bytes if own else sum(v.numpy().nbytes for v in model.optimizer.variables)
    return Held(float(states), _status("RssAnon"), peak, received)


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
        rounds: Calls of `fit` of each kind.
    """
    pairs = [
        max(of_workers)  # the slower worker counts
        for of_workers in zip(*_run(times, rounds), strict=True)
    ]
    found: list[speed.Ratio | speed.Cost] = [
        speed.ratio_of(f"{_NAME}, a step in slices / whole", pairs, target=0.95)
    ]
    kinds: dict[bool, list[Held]] = {True: [], False: []}
    for _ in range(min(rounds, _TURNS)):
        for is_sharded, turns in kinds.items():
            turns += _run(held, is_sharded)
    ours, theirs = kinds[True], kinds[False]
    share = [one.states / other.states for one, other in zip(ours, theirs, strict=True)]
    found.append(speed.cost_of(f"{_NAME}, states a worker holds / all of them", share, target=0.51))
    for name, told in (
        ("anonymous", "memory without files"), ("peak", "memory at the peak"),
        ("received", "received in a step"),
    ):
        for kind, turns in (("in slices", ours), ("whole", theirs)):
            amounts = [getattr(turn, name) / _MB for turn in turns]
            found.append(speed.cost_of(f"{_NAME}, {told} {kind}, MB", amounts))
    for result in found:
        print(result, flush=True)
    return found


def _run(function: Any, *args: Any) -> list[Any]:
    return launch.run(function, workers=2, args=args, threads=1, env=_QUIET, timeout_secs=900)
