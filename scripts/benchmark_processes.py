"""How much memory does training take?  Measured in processes of their own.

The suite `memory` of benchmark.py; see there.
"""

from __future__ import annotations

from typing import Any

import benchmark_models

from tfdist import launch
from tfdist.diagnostics import speed

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}
_STEPS = 12
_PROCESSES = 3  # of each kind, by turns


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
