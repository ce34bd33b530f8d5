"""What does it cost to sum gradients over two workers, here and with torch?

The suite `reduction` of benchmark.py; see there. Workers have one core each, and take turns.
"""

from __future__ import annotations

import dataclasses
import math
import os
import pathlib
import socket
import stat
import statistics
import struct
import subprocess
import time
from collections.abc import Callable
from typing import Any

import benchmark_peers

from tfdist import launch
from tfdist.diagnostics import speed

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}
_STEPS = 12
_TURNS = 3
_WORDS, _WIDTH, _TOUCHED = 1_000_000, 16, 2_000  # of an embedding; rows that a worker touches


def mlp() -> tuple[Any, tuple[int, ...]]:
    """Returns an MLP of 21 M parameters, and the shape of an example."""
    import keras

    dense = keras.layers.Dense
    body = [keras.Input((1024,)), dense(4096, "relu"), dense(4096, "relu"), dense(10)]
    return keras.Sequential(body), (1024,)


def embedding(*, is_dense: bool = False) -> tuple[Any, tuple[int, ...]]:
    """Returns a model with a large embedding, and the shape of an example.

    Args:
        is_dense: Whether its gradient is made dense before it travels.
    """
    import keras
    import tensorflow as tf

    class Table(keras.layers.Embedding):  # type: ignore[misc]
        """An embedding whose gradient is dense."""

        def call(self, words: Any) -> Any:
            @tf.custom_gradient
            def densified(table: Any) -> Any:
                return tf.identity(table), tf.convert_to_tensor

            return tf.gather(densified(self.embeddings.value), words)

    kind = Table if is_dense else keras.layers.Embedding
    body = [keras.Input((_TOUCHED // 64,), dtype="int32"), kind(_WORDS, _WIDTH),
            keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(10)]
    return keras.Sequential(body), (_TOUCHED // 64,)


@dataclasses.dataclass(frozen=True)
class Step:
    """What a step takes on a worker.

    Attributes:
        secs: Its time, in seconds.
        received: Bytes that came in over TCP.
    """

    secs: float
    received: float


def bytes_received() -> int:
    """Returns the bytes that this process has got over its TCP connections (Linux only).

    Counted by the system for each connection, so that other programs on the machine do not count as
    they do in the counters of a network interface.
    """
    total = 0
    for entry in pathlib.Path("/proc/self/fd").iterdir():
        try:
            # On a copy, since a socket object closes what it was given.
            is_socket = stat.S_ISSOCK(os.stat(int(entry.name)).st_mode)
            number = os.dup(int(entry.name)) if is_socket else None
        except OSError:
            continue  # the one that listed them
        if number is not None:
            with socket.socket(fileno=number) as connection:
                total += _received(connection)
    return total


def _received(connection: socket.socket) -> int:
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
    except OSError:
        return 0  # not of TCP
    return int(struct.unpack_from("Q", info, 128)[0]) if len(info) >= 136 else 0  # bytes_received


def time_workers(kind: str, rounds: int, wire: str | None) -> Step:
    """Runs on each worker: returns the medians of a step."""
    import keras
    import numpy as np

    import tfdist

    strategy = tfdist.get_strategy("cpu")
    with strategy.scope():
        model, shape = mlp() if kind == "mlp" else embedding(is_dense=kind == "dense embedding")
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.SGD(0.01, momentum=0.9 if kind == "mlp" else 0.0), loss)
    rows = 64 * strategy.num_replicas_in_sync
    x = np.random.default_rng(0).integers(0, _WORDS, (_STEPS * rows, *shape))
    x = x if kind != "mlp" else np.zeros(x.shape, "float32")
    y = np.zeros(_STEPS * rows, "int32")
    times, sizes = [], []
    for _ in range(1 + rounds):
        received, start = bytes_received(), time.perf_counter()
        tfdist.fit(model, x, y, batch_size=rows, verbose=0, reduction=wire)
        times.append((time.perf_counter() - start) / _STEPS)
        sizes.append((bytes_received() - received) / _STEPS)
    # The first one traces.
    return Step(statistics.median(times[1:]), statistics.median(sizes[1:]))


def time_sum(kind: str, rounds: int) -> Step:
    """Runs on each worker: returns the median of a sum of the MLP's gradients, and of nothing else.

    Args:
        kind: "bare" for one operation of TensorFlow's on all numbers in a row, in the parts that
            were fastest; "tfdist" for what a step does with the gradients of all variables.
        rounds: Of `_STEPS` sums each.
    """
    import tensorflow as tf

    import tfdist
    from tfdist.communication import reduction
    from tfdist.compat import tf_internals

    strategy = tfdist.get_strategy("cpu")
    with strategy.scope():
        sizes = [tuple(variable.shape) for variable in mlp()[0].trainable_variables]
    if kind == "bare":
        sizes = [(sum(math.prod(size) for size in sizes),)]
    values = [tf.Variable(tf.random.normal(size)) for size in sizes]

    def summed(gradients: list[Any]) -> list[Any]:
        if kind == "tfdist":
            return list(reduction.sum_gradients(strategy, gradients))
        launcher, (one,) = tf_internals.launcher_of(strategy), gradients
        if launcher is None:
            raise RuntimeError("This TensorFlow does not tell how it sums. Install 2.18 to 2.22.")
        return [tf.raw_ops.CollectiveReduceV2(
            input=one, merge_op="Add", final_op="Id", max_subdivs_per_device=16,
            **launcher.keys(),
        )]

    @tf.function(autograph=False)
    def loop() -> Any:
        def body(number: Any, last: Any) -> Any:
            # Other values in each pass, or TensorFlow would make them once, before the loop.
            sums = summed([value * (1 + 0 * last) for value in values])
            return number + 1, tf.add_n([tf.reshape(total, [-1])[-1] for total in sums])

        return tf.while_loop(
            lambda number, last: number < _STEPS, body, [0, 0.0], parallel_iterations=1
        )

    times = []
    for _ in range(1 + rounds):
        start = time.perf_counter()
        loop()[1].numpy()
        times.append((time.perf_counter() - start) / _STEPS)
    return Step(statistics.median(times[1:]), float("nan"))


def _of_sums(kind: str, rounds: int) -> Step:
    values = launch.run(time_sum, workers=2, args=(kind, rounds), threads=1, env=_QUIET)
    return Step(max(value.secs for value in values), float("nan"))


def _of_workers(kind: str, workers: int, rounds: int, wire: str | None = None) -> Step:
    values = launch.run(
        time_workers, workers=workers, args=(kind, rounds, wire), threads=1, env=_QUIET
    )
    return Step(max(value.secs for value in values), max(value.received for value in values))


def suite_reduction(rounds: int, *, torch: str = "") -> list[speed.Ratio]:
    """Compares steps that move 84 MB of gradients over two workers with others.

    Args:
        rounds: Calls of `fit` of each worker.
        torch: What pip calls the torch to compare with; "" for none.
    """
    kinds: dict[str, Callable[[], Step]] = {
        "alone": lambda: _of_workers("mlp", 1, rounds),
        "float32": lambda: _of_workers("mlp", 2, rounds),
        "bfloat16": lambda: _of_workers("mlp", 2, rounds, "bfloat16"),
        "embedding": lambda: _of_workers("embedding", 2, rounds),
        "dense embedding": lambda: _of_workers("dense embedding", 2, rounds),
        "sum alone": lambda: _of_sums("tfdist", rounds),
        "bare sum": lambda: _of_sums("bare", rounds),
    }
    turns = []
    for _ in range(_TURNS):
        turn = {name: work() for name, work in kinds.items()}
        if torch:
            python = benchmark_peers.torch_python(torch)
            turn["torch DDP"], turn["gloo's sum"] = _of_torch(python, rounds)
        turns.append(turn)
    for name in turns[0]:
        low, median, high = speed.quartiles([1000 * turn[name].secs for turn in turns])
        size = statistics.median(turn[name].received for turn in turns)
        bytes_of = "" if math.isnan(size) else f", {size / 1e6:.2f} MB received"
        print(f"  {name}: {median:.0f} ms ({low:.0f} to {high:.0f}){bytes_of}")

    def ratio(name: str, ours: str, theirs: str, target: float | None = None) -> speed.Ratio:
        pairs = [(turn[ours].secs, turn[theirs].secs) for turn in turns]
        return _said(speed.ratio_of(name, pairs, target=target))

    ratios = [
        ratio("MLP of 21 M parameters: efficiency of 2 workers", "float32", "alone"),
        ratio("the same in bfloat16", "bfloat16", "alone"),
        ratio("embedding of 1 M rows: summed as rows / densely", "embedding", "dense embedding"),
        *_of_bytes(turns),
        ratio("sum of 84 MB alone / a bare collective's", "sum alone", "bare sum", 0.95),
    ]
    if torch:
        ratios += [
            ratio("MLP of 21 M parameters / torch DDP over gloo", "float32", "torch DDP", 1.0),
            ratio("the same in bfloat16 / torch DDP", "bfloat16", "torch DDP", 1.33),
            ratio("sum of 84 MB alone / gloo's", "sum alone", "gloo's sum"),
        ]
    return ratios


def _of_bytes(turns: list[dict[str, Step]]) -> list[speed.Ratio]:
    """Compares the bytes of the embedding's gradient: on the wire, and as they can be counted."""
    names = ("embedding", "dense embedding")
    pairs = [(turn[names[0]].received, turn[names[1]].received) for turn in turns]
    # Each worker gets the other one's rows: as many as that has words, of float32, and their
    # numbers, of int32.
    counted = 64 * (_TOUCHED // 64) * (4 * _WIDTH + 4)
    counts = [(turn[names[0]].received, float(counted)) for turn in turns]
    return [
        _said(speed.ratio_of("embedding of 1 M rows: bytes sent as rows / densely", pairs)),
        _said(speed.ratio_of("embedding of 1 M rows: bytes of its touched rows / sent", counts)),
    ]


def _said(ratio: speed.Ratio) -> speed.Ratio:
    print(ratio, flush=True)
    return ratio


def _of_torch(python: str, rounds: int) -> tuple[Step, Step]:
    """Returns what a step takes, and a sum alone."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    program = str(pathlib.Path(__file__).with_name("torch_ddp.py"))
    workers = [
        subprocess.Popen(
            [python, program, str(rank), "2", str(port), str(rounds)],
            stdout=subprocess.PIPE, text=True,
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=300)[0].split() for worker in workers]
        steps, sums = (max(map(float, of_workers)) for of_workers in zip(*said, strict=True))
        return Step(steps / 1000, float("nan")), Step(sums / 1000, float("nan"))
    finally:
        for worker in workers:
            worker.kill()
