"""How long is a small step, where everything but arithmetic shows?

The suites `step` and `replicas` of benchmark.py; see there. The model is an MLP 64-64-64-10 with
Adam and one metric, in batches of 32.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import redirect_stdout
from typing import Any

import benchmark_by_hand
import benchmark_peers

from tfdist import launch
from tfdist.diagnostics import speed

_BATCH = 32


def small_model() -> Any:
    """Returns the MLP 64-64-64-10 with Adam and one metric, as users compile it."""
    import keras

    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((64,)), dense(64, "relu"), dense(64, "relu"), dense(10)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss, metrics=["accuracy"])
    return model


def small_data(steps: int) -> tuple[Any, Any]:
    """Returns so many batches of 32 random examples."""
    import numpy as np

    rng = np.random.default_rng(0)
    rows = steps * _BATCH
    return rng.normal(size=(rows, 64)).astype("float32"), rng.integers(0, 10, rows)


def raw_loop(
    x: Any, y: Any, *, steps_per_call: int, in_memory: bool = False
) -> Callable[[], object]:
    """Returns a hand-written loop: so many steps of a GradientTape in one traced function.

    Args:
        x: Inputs.
        y: Labels.
        steps_per_call: Steps of a call.
        in_memory: Whether it gathers the rows of each batch itself, which few would write, or
            reads a `tf.data.Dataset`, as guides show it.
    """
    import keras
    import tensorflow as tf

    model, optimizer = small_model(), keras.optimizers.Adam()
    optimizer.build(model.trainable_variables)
    loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    accuracy, mean = keras.metrics.SparseCategoricalAccuracy(), keras.metrics.Mean()
    accuracy.update_state(y[:2], model(x[:2]))
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(1024).batch(_BATCH)
    data = data.prefetch(tf.data.AUTOTUNE)

    def step(rows: Any, labels: Any) -> None:
        benchmark_by_hand.train_once(model, optimizer, loss_of, (accuracy, mean), rows, labels)

    @tf.function
    def run(iterator: Any, count: Any) -> None:
        for _ in tf.range(count):
            step(*next(iterator))

    all_x, all_y = tf.constant(x), tf.constant(y)

    @tf.function
    def gather_and_run(order: Any, start: Any, count: Any) -> None:
        for i in tf.range(start, start + count):
            rows = order[i * _BATCH : (i + 1) * _BATCH]
            step(tf.gather(all_x, rows), tf.gather(all_y, rows))

    def epoch() -> None:
        iterator = None if in_memory else iter(data)
        order = tf.random.shuffle(tf.range(len(x))) if in_memory else None
        for start in range(0, len(x) // _BATCH, steps_per_call):
            count = tf.constant(min(len(x) // _BATCH - start, steps_per_call))
            if in_memory:
                gather_and_run(order, tf.constant(start), count)
            else:
                run(iterator, count)
        accuracy.result().numpy()

    return epoch


def suite_step(steps: int, rounds: int, *, orbit: str = "") -> list[speed.Ratio]:
    """Compares small steps on one device, where everything but arithmetic shows.

    Args:
        steps: Of one timing.
        rounds: Of each comparison.
        orbit: What pip calls the distribution with the Orbit to compare with; "" for none.
    """
    import tfdist

    x, y = small_data(steps)
    ours, theirs = small_model(), small_model()

    def compare(name: str, mine: Any, other: Any, target: float) -> speed.Ratio:
        return _said(speed.compare(name, mine, other, rounds=rounds, target=target))

    def fit(**options: Any) -> Callable[[], object]:
        return lambda: tfdist.fit(ours, x, y, batch_size=_BATCH, **options)

    def keras_fit(**options: Any) -> Callable[[], object]:
        return lambda: theirs.fit(x, y, batch_size=_BATCH, **options)

    def bar(work: Callable[[], object]) -> Callable[[], object]:
        def hidden() -> None:
            with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
                work()

        return hidden

    silent: dict[str, Any] = {"verbose": 0}
    ratios = [
        compare("fit / keras fit", fit(**silent), keras_fit(**silent), 3.0),
        compare("fit / keras fit, bar", bar(fit(verbose=1)), bar(keras_fit(verbose=1)), 3.0),
    ]
    for count in (20, steps):
        for in_memory in (False, True):
            peer = raw_loop(x, y, steps_per_call=count, in_memory=in_memory)
            name = f"fit / raw loop of {count} steps{', rows in memory' if in_memory else ''}"
            ratios.append(compare(name, fit(**silent), peer, 0.97))
    passes: dict[str, Any] = {"batch_size": _BATCH, "verbose": 0}
    ratios += [
        compare("evaluate / keras evaluate", lambda: tfdist.evaluate(ours, x, y, **passes),
                lambda: theirs.evaluate(x, y, **passes), 1.0),
        compare("predict / keras predict", lambda: tfdist.predict(ours, x, **passes),
                lambda: theirs.predict(x, **passes), 1.0),
    ]
    ratios.append(_said(_first_steps()))
    if orbit:
        with benchmark_peers.orbit_loop(orbit, steps) as of_loops:
            ratios += [
                compare(f"fit / orbit loop of {count} steps", fit(**silent), of_loops(count), 0.97)
                for count in (20, steps)
            ]
    return ratios


def _first_steps() -> speed.Ratio:
    """Compares tracing and compiling: the first step of a new model."""
    import tfdist

    x, y = small_data(1)
    return speed.compare(
        "first step / keras", lambda: tfdist.fit(small_model(), x, y, verbose=0),
        lambda: small_model().fit(x, y, verbose=0), rounds=5, target=1.0,
    )


def compare_replicas(steps: int, rounds: int) -> speed.Ratio:
    """Compares `fit` on two replicas, in a process whose TensorFlow has not started yet."""
    import tfdist

    strategy = tfdist.get_strategy("2xcpu")
    with strategy.scope():
        ours, theirs = small_model(), small_model()
    x, y = small_data(steps)
    given: dict[str, Any] = {"batch_size": _BATCH, "verbose": 0}
    return speed.compare(
        "fit / keras fit, 2 replicas", lambda: tfdist.fit(ours, x, y, **given),
        lambda: theirs.fit(x, y, **given), rounds=rounds, target=3.0,
    )


def suite_replicas(steps: int, rounds: int) -> list[speed.Ratio]:
    """Compares small steps on two replicas of one process."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    return [_said(launch.run(compare_replicas, workers=1, args=(steps, rounds), env=quiet)[0])]


def _said(ratio: speed.Ratio) -> speed.Ratio:
    print(ratio, flush=True)
    return ratio
