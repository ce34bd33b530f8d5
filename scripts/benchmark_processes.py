"""What do input and memory cost?  Measured in processes of their own.

The suites `input` and `memory` of benchmark.py; see there.
"""

from __future__ import annotations

import time
from typing import Any

import benchmark_models

from tfdist import launch
from tfdist.diagnostics import speed

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}
_STEPS = 12
_PROCESSES = 3  # of each kind, by turns


# ---- input -----------------------------------------------------------------------------------


def slow_dataset(element: Any, steps: int, secs: float) -> Any:
    """Returns a pipeline that needs so many seconds for each of its batches, but no core.

    Args:
        element: Each of its batches.
        steps: Number of batches.
        secs: Of each of them; 0 waits for nothing.
    """
    import numpy as np
    import tensorflow as tf

    def wait(value: Any) -> Any:
        time.sleep(secs)  # as a disk would
        return value

    def waited(number: Any) -> Any:
        with tf.control_dependencies([tf.numpy_function(wait, [number], np.int64)]):
            return tuple(tf.identity(part) for part in element)

    plain = tf.data.Dataset.range(steps)
    plain = plain.map(waited) if secs else plain.map(lambda number: element)
    return plain.prefetch(tf.data.AUTOTUNE)


def time_input(rounds: int) -> list[tuple[float, float]]:
    """Returns, of each round, the seconds that `fit` took with a slow pipeline, and the least.

    The least is what the longer of the two takes alone, the steps or the pipeline, and the first
    batch besides, for which every loop has to wait.
    """
    import tfdist

    with tfdist.get_strategy("cpu").scope():
        model = benchmark_models.compiled(benchmark_models.cnn())
    element, steps = benchmark_models.zeros(model, 32), 60

    def secs_of(work: Any) -> float:
        start = time.perf_counter()
        work()
        return time.perf_counter() - start

    def of_fit(dataset: Any) -> float:
        return secs_of(lambda: tfdist.fit(model, dataset, verbose=0))

    fast = slow_dataset(element, steps, 0.0)
    of_fit(fast)  # traces
    step_secs = of_fit(fast) / steps
    slow = slow_dataset(element, steps, step_secs)
    of_fit(slow)
    found = []
    for _ in range(rounds):
        steps_alone, both = of_fit(fast), of_fit(slow)
        input_alone = secs_of(lambda: [None for _ in slow])
        found.append((both, max(steps_alone, input_alone) + step_secs))
    return found


def suite_input(rounds: int) -> list[speed.Ratio]:
    """Tells how much of a pipeline that is as slow as the step hides behind the step.

    1 means all that can, 0.5 nothing.
    """
    [pairs] = launch.run(time_input, workers=1, args=(rounds,), env=_QUIET)
    ratio = speed.ratio_of("input as slow as the step: all hidden / fit", pairs, target=0.97)
    print(ratio, flush=True)
    return [ratio]


# ---- memory ----------------------------------------------------------------------------------


def peak_of_training(kind: str) -> int:
    """Returns the most bytes that a process has which trains by `fit`, or by a loop of its own."""
    import keras
    import tensorflow as tf

    import tfdist
    from tfdist.diagnostics import memory_limit

    model = benchmark_models.compiled(benchmark_models.mlp())
    x, y = benchmark_models.zeros(model, 512 * _STEPS)
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


def suite_memory(rounds: int) -> list[speed.Ratio]:
    """Compares the peak of memory of `fit` with that of a hand-written loop; bytes, not seconds.

    A round is two processes that compute for a minute on a busy machine, and bytes hardly vary, so
    three are enough.
    """

    def run(kind: str) -> float:
        return float(launch.run(peak_of_training, workers=1, args=(kind,), env=_QUIET)[0])

    pairs = [(run("fit"), run("raw")) for _ in range(min(rounds, _PROCESSES))]
    ratio = speed.ratio_of("memory at the peak: raw loop / fit", pairs, target=0.98)
    print(ratio, flush=True)
    print(f"  {ratio.theirs_secs / 1e6:.0f} MB by hand, {ratio.ours_secs / 1e6:.0f} MB by fit")
    return [ratio]
