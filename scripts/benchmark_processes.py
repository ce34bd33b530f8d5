"""What do scaling, input and memory cost?  Measured in processes of their own.

The suites `scaling`, `passes`, `start`, `input` and `memory` of benchmark.py; see there.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from tfdist import launch, report
from tfdist.forecast import Forecast, fit_link
from tfdist.split import Split

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}
_STEPS = 12
_PROCESSES = 3  # of each kind, by turns


def cnn() -> list[Any]:
    """Returns the layers of a CNN that computes much and sums little."""
    import keras

    layers = keras.layers
    return [keras.Input((32, 32, 3)), layers.Conv2D(32, 3, activation="relu"),
            layers.Conv2D(64, 3, strides=2, activation="relu"), layers.Flatten(), layers.Dense(10)]


def mlp() -> list[Any]:
    """Returns the layers of an MLP of 17 M parameters."""
    import keras

    dense = keras.layers.Dense
    return [keras.Input((64,)), dense(4096, "relu"), dense(4096, "relu"), dense(10)]


def compiled(layers: list[Any]) -> Any:
    """Returns a compiled model of these layers."""
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(), loss)
    return model


def zeros(model: Any, rows: int) -> tuple[Any, Any]:
    """Returns so many examples for a model."""
    import numpy as np

    return np.zeros((rows, *model.input_shape[1:]), "float32"), np.zeros(rows, "int32")


# ---- scaling ---------------------------------------------------------------------------------


def time_steps(device: str, global_batch: int, rounds: int) -> dict[str, Any]:
    """Runs on each worker: returns the round with the median time of a step, and its split.

    The time is that of steps alone, without what a call of `fit` takes to begin.
    """
    import tfdist

    with tfdist.get_strategy(device).scope():
        model = compiled(cnn())
    x, y = zeros(model, _STEPS * global_batch)
    options = {"batch_size": global_batch, "verbose": 0}
    tfdist.fit(model, x, y, **options)
    profiles = [
        tfdist.fit(model, x, y, epochs=2, profile=True, **options).profile for _ in range(rounds)
    ]
    profile = sorted(profiles, key=lambda profile: profile.split.secs)[rounds // 2]
    return {"secs": profile.split.secs, "split": profile.split, "bytes": profile.gradient_bytes}


def _of(workers: int, *args: Any, threads: int = 1) -> dict[str, Any]:
    values = launch.run(time_steps, workers=workers, args=args, threads=threads, env=_QUIET)
    return max(values, key=lambda value: float(value["secs"]))


def suite_scaling(rounds: int, plot: str | None) -> list[report.Ratio | Forecast]:
    """Compares a CNN on two workers of one core with one such worker, and predicts more.

    Weak scaling keeps a worker's batch, strong scaling keeps the global one. And two replicas of
    one process against one, on the same cores with the same global batch: what replicas cost.
    """
    found: list[report.Ratio | Forecast] = []
    runs = [
        (_of(1, "cpu", 64, rounds), _of(2, "cpu", 128, rounds), _of(2, "cpu", 64, rounds))
        for _ in range(_PROCESSES)
    ]
    for is_strong in (False, True):
        pairs = [(run[0], run[2] if is_strong else run[1]) for run in runs]
        work = 2 if is_strong else 1
        times = [(alone["secs"], work * both["secs"]) for alone, both in pairs]
        name = "strong" if is_strong else "weak"
        found.append(_ratio(f"CNN: efficiency of 2 workers, {name}", times,
                            target=None if is_strong else 0.97))
        found.append(_forecast(pairs, is_strong=is_strong, plot=plot))
    cores = os.cpu_count() or 1
    pairs = [tuple(_of(1, device, 128, rounds, threads=cores)["secs"]
                   for device in ("cpu", "2xcpu")) for _ in range(_PROCESSES)]
    found.append(_ratio("CNN: 1 replica / 2 replicas, same cores and batch", pairs))
    return found


def _forecast(
    pairs: list[tuple[dict[str, Any], dict[str, Any]]], *, is_strong: bool, plot: str | None
) -> Forecast:
    """Predicts from one worker's split, and from the sum of gradients between two."""
    measured = {n: statistics.median(pair[n - 1]["secs"] for pair in pairs) for n in (1, 2)}
    alone: Split = sorted((pair[0]["split"] for pair in pairs), key=_secs)[len(pairs) // 2]
    size = pairs[0][0]["bytes"]
    sums = [(2, size, pair[1]["split"].communication_secs) for pair in pairs]
    forecast = Forecast(alone, size, fit_link(sums), is_strong=is_strong, measured=measured)
    print(f"  one worker: {alone}")
    print(f"  two workers: {pairs[0][1]['split']}")
    for line in forecast.advice(2):
        print(f"  {line}")
    if plot:
        from tfdist.plot import plot_scaling

        path = plot.removesuffix(".png") + ("_strong.png" if is_strong else "_weak.png")
        plot_scaling(forecast, path)
        print(f"  {path} shows it")
    return forecast


def _secs(split: Split) -> float:
    return split.secs


def time_passes(global_batch: int, rounds: int) -> dict[str, float]:
    """Runs on each worker: returns the median seconds of a batch of `evaluate` and `predict`."""
    import tfdist

    with tfdist.get_strategy("cpu").scope():
        model = compiled(cnn())
    x, y = zeros(model, _STEPS * global_batch)
    options = {"batch_size": global_batch, "verbose": 0}
    passes: dict[str, Callable[[], object]] = {
        "evaluate": lambda: tfdist.evaluate(model, x, y, **options),
        "predict": lambda: tfdist.predict(model, x, **options),
    }

    def timed(one: Callable[[], object]) -> float:
        start = time.perf_counter()
        one()
        return time.perf_counter() - start

    return {
        name: statistics.median([timed(one) for _ in range(1 + rounds)][1:]) / _STEPS
        for name, one in passes.items()
    }


def suite_passes(rounds: int, plot: str | None) -> list[report.Ratio | Forecast]:
    """Compares passes over data on two workers of one core with one such worker (weak scaling)."""

    def slowest(workers: int) -> dict[str, float]:
        given = (256 * workers, rounds)
        values = launch.run(time_passes, workers=workers, args=given, threads=1, env=_QUIET)
        return {name: max(value[name] for value in values) for name in values[0]}

    turns = [(slowest(1), slowest(2)) for _ in range(_PROCESSES)]
    return [
        _ratio(f"CNN: efficiency of 2 workers, {name}",
               [(alone[name], both[name]) for alone, both in turns], target=0.9)
        for name in ("evaluate", "predict")
    ]


# ---- start -----------------------------------------------------------------------------------


def suite_start(rounds: int, plot: str | None) -> list[report.Ratio | Forecast]:
    """Compares importing TensorFlow and Keras with importing all that `fit` needs besides."""

    def secs(more: str = "") -> float:
        start = time.perf_counter()
        code = f"import tensorflow, keras{more}"
        subprocess.run([sys.executable, "-c", code], check=True, env={**os.environ, **_QUIET})
        return time.perf_counter() - start

    secs()  # what is read from the disk once
    with_tfdist = ", tfdist; tfdist.fit, tfdist.get_strategy"
    pairs = [(secs(), secs(with_tfdist)) for _ in range(max(rounds, 5))]
    ratio = _ratio("import of TensorFlow and Keras: alone / with tfdist", pairs)
    more = report.quartiles([1000 * (ours - theirs) for theirs, ours in pairs])
    print(f"  tfdist takes {more[1]:.0f} ms more ({more[0]:.0f} to {more[2]:.0f})")
    return [ratio]


# ---- input -----------------------------------------------------------------------------------


def time_input(rounds: int) -> list[tuple[float, float]]:
    """Returns seconds of an epoch without and with a pipeline that is as slow as the step."""
    import numpy as np
    import tensorflow as tf

    import tfdist

    with tfdist.get_strategy("cpu").scope():
        model = compiled(cnn())
    rows, steps = 128, 60  # the first batch is waited for in any case
    element = zeros(model, rows)

    def data(secs: float) -> Any:
        def wait(value: Any) -> Any:
            time.sleep(secs)  # as a disk would, without a core
            return value

        def waited(number: Any) -> Any:
            with tf.control_dependencies([tf.numpy_function(wait, [number], np.int64)]):
                return tuple(tf.identity(part) for part in element)

        plain = tf.data.Dataset.range(steps)
        plain = plain.map(waited) if secs else plain.map(lambda number: element)
        return plain.prefetch(tf.data.AUTOTUNE)

    def timed(dataset: Any) -> float:
        start = time.perf_counter()
        tfdist.fit(model, dataset, verbose=0)
        return time.perf_counter() - start

    timed(data(0.0))
    step_secs = timed(data(0.0)) / steps
    fast, slow = data(0.0), data(step_secs)
    timed(slow)
    return [(timed(fast), timed(slow)) for _ in range(rounds)]


def suite_input(rounds: int, plot: str | None) -> list[report.Ratio | Forecast]:
    """Tells how much of a pipeline that is as slow as the step hides behind the step.

    1 means all of it, 0.5 nothing.
    """
    [pairs] = launch.run(time_input, workers=1, args=(rounds,), env=_QUIET)
    return [_ratio("input as slow as the step: time without / with", pairs, target=0.95)]


# ---- memory ----------------------------------------------------------------------------------


def peak_of_training(kind: str) -> int:
    """Returns the most bytes that a process has which trains by `fit`, or by a loop of its own."""
    import keras
    import tensorflow as tf

    import tfdist
    from tfdist import memory_limit

    model = compiled(mlp())
    x, y = zeros(model, 512 * _STEPS)
    if kind == "fit":
        tfdist.fit(model, x, y, batch_size=512, epochs=2, verbose=0)
        return memory_limit.peak_resident_bytes()
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.optimizer.build(model.trainable_variables)

    @tf.function
    def step(rows: Any, labels: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(labels, model(rows, training=True))
        gradients = tape.gradient(loss, model.trainable_variables)
        model.optimizer.apply(gradients, model.trainable_variables)
        return loss

    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x)).batch(512)
    for rows, labels in data.repeat(2).prefetch(tf.data.AUTOTUNE):
        step(rows, labels)
    return memory_limit.peak_resident_bytes()


def suite_memory(rounds: int, plot: str | None) -> list[report.Ratio | Forecast]:
    """Compares the peak of memory of `fit` with that of a hand-written loop; bytes, not seconds."""
    def run(kind: str) -> float:
        return float(launch.run(peak_of_training, workers=1, args=(kind,), env=_QUIET)[0])

    pairs = [(run("raw"), run("fit")) for _ in range(_PROCESSES)]
    ratio = _ratio("memory at the peak: raw loop / fit", pairs, target=0.98)
    print(f"  {ratio.theirs_secs / 1e6:.0f} MB by hand, {ratio.ours_secs / 1e6:.0f} MB by fit")
    return [ratio]


# ---- all of them -----------------------------------------------------------------------------

Suite = Callable[[int, str | None], list[report.Ratio | Forecast]]
SUITES: dict[str, Suite] = {
    "scaling": suite_scaling, "passes": suite_passes, "start": suite_start, "input": suite_input,
    "memory": suite_memory,
}


def _ratio(name: str, pairs: list[Any], **options: Any) -> report.Ratio:
    ratio = report.ratio_of(name, [(ours, theirs) for theirs, ours in pairs], **options)
    print(ratio, flush=True)
    return ratio
