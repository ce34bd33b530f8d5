"""Measures tfdist against its peers, by turns in one run, and prints ratios with their spread.

    python scripts/benchmark.py --suite=step
    python scripts/benchmark.py --suite=step,checkpoint --rounds=15 --output=out.json
    python scripts/benchmark.py --suite=reduction --peer=torch-ddp
    python scripts/benchmark.py --suite=step --peer=orbit

A ratio is our speed over the peer's: above 1 tfdist is faster. The quartiles of all rounds stand in
brackets; a machine that is busy with something else widens them. Suites:

    step        a small MLP: `fit`, `evaluate`, `predict` against Keras's and a hand-written loop
    replicas    the same `fit` on two replicas of one process, against Keras's on two
    scaling     a CNN on one worker and on two, each with one core, weak and strong, with a
                prediction for more, and --plot=FILE.png; two replicas against one
    passes      `evaluate` and `predict` of that CNN on two workers of one core, against one
    start       importing tfdist beside TensorFlow and Keras
    input       a tf.data pipeline that is as slow as the step: how much of it hides?
    memory      the most that `fit` and a hand-written loop take; its "secs" are bytes
    reduction   an MLP of 21 M parameters on two workers: milliseconds of a step, and of its sum
    checkpoint  a model of 100 MB: how long training waits for a save, and how long it takes
    engines     a job of two workers that does nothing, on each engine that is installed
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from typing import Any

import benchmark_processes
import benchmark_reduction
from absl import app, flags, logging
from benchmark_orbit import orbit_loop
from documents import replace_table, table_of

from tfdist import launch, report
from tfdist.launch.job import ENGINES

_SUITES = flags.DEFINE_list("suite", ["step"], "Suites of those above, as in step,checkpoint.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds of each comparison.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 600, "Steps of one timing in suite step.", lower_bound=50)
_PEER = flags.DEFINE_enum("peer", None, ["orbit", "torch-ddp"],
                          "Whom suite step, or suite reduction, is compared with besides.")
_TORCH = flags.DEFINE_string(
    "torch", "torch==2.13.0+cpu", "What pip installs for that peer, in .venv-torch, once; a build "
    "for CPUs is enough."
)
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file to write, besides what is printed.")
_WRITE = flags.DEFINE_bool("write", False, "Whether to put the ratios into the README's table.")
_PLOT = flags.DEFINE_string("plot", None, "PNG of suite scaling: FILE_weak.png, FILE_strong.png.")

_BATCH = 32


# ---- step ------------------------------------------------------------------------------------


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
        with tf.GradientTape() as tape:
            outputs = model(rows, training=True)
            loss = loss_of(labels, outputs)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)
        accuracy.update_state(labels, outputs)
        mean.update_state(loss)

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


def unseen(work: Callable[[], object]) -> Callable[[], object]:
    """Returns work that prints into nothing."""

    def run() -> None:
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
            work()

    return run


def suite_step() -> list[report.Ratio]:
    """Compares small steps on one device, where everything but arithmetic shows."""
    import tfdist

    x, y = small_data(_STEPS.value)
    ours, theirs = small_model(), small_model()

    def compare(name: str, mine: Any, other: Any, target: float) -> report.Ratio:
        return _said(report.compare(name, mine, other, rounds=_ROUNDS.value, target=target))

    def fit(**options: Any) -> Callable[[], object]:
        return lambda: tfdist.fit(ours, x, y, batch_size=_BATCH, **options)

    def keras_fit(**options: Any) -> Callable[[], object]:
        return lambda: theirs.fit(x, y, batch_size=_BATCH, **options)

    silent = {"verbose": 0}
    ratios = [
        compare("fit / keras fit", fit(**silent), keras_fit(**silent), 3.0),
        compare("fit / keras fit, bar", unseen(fit(verbose=1)), unseen(keras_fit(verbose=1)), 3.0),
    ]
    for count in (20, _STEPS.value):
        for in_memory in (False, True):
            peer = raw_loop(x, y, steps_per_call=count, in_memory=in_memory)
            name = f"fit / raw loop of {count} steps{', rows in memory' if in_memory else ''}"
            ratios.append(compare(name, fit(**silent), peer, 0.97))
    passes = {"batch_size": _BATCH, "verbose": 0}
    ratios += [
        compare("evaluate / keras evaluate", lambda: tfdist.evaluate(ours, x, y, **passes),
                lambda: theirs.evaluate(x, y, **passes), 1.0),
        compare("predict / keras predict", lambda: tfdist.predict(ours, x, **passes),
                lambda: theirs.predict(x, **passes), 1.0),
    ]
    ratios.append(_said(_first_steps()))
    return ratios + (_against_orbit(x, y, fit(**silent)) if _PEER.value == "orbit" else [])


def _against_orbit(x: Any, y: Any, fit: Callable[[], object]) -> list[report.Ratio]:
    import tensorflow as tf

    logging.set_verbosity(logging.WARNING)  # else Orbit tells of each loop
    data = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(1024).batch(_BATCH)
    data, steps = data.prefetch(tf.data.AUTOTUNE), len(x) // _BATCH
    ratios = []
    for count in (20, steps):
        peer = unseen(orbit_loop(small_model(), data, steps=steps, steps_per_loop=count))
        name = f"fit / orbit loop of {count} steps"
        ratios.append(_said(report.compare(name, fit, peer, rounds=_ROUNDS.value, target=1.0)))
    return ratios


def _first_steps() -> report.Ratio:
    """Compares tracing and compiling: the first step of a new model."""
    import tfdist

    x, y = small_data(1)
    return report.compare(
        "first step / keras", lambda: tfdist.fit(small_model(), x, y, verbose=0),
        lambda: small_model().fit(x, y, verbose=0), rounds=5, target=1.0,
    )


def compare_replicas(steps: int, rounds: int) -> report.Ratio:
    """Compares `fit` on two replicas, in a process whose TensorFlow has not started yet."""
    import tfdist

    strategy = tfdist.get_strategy("2xcpu")
    with strategy.scope():
        ours, theirs = small_model(), small_model()
    x, y = small_data(steps)
    given = {"batch_size": _BATCH, "verbose": 0}
    return report.compare(
        "fit / keras fit, 2 replicas", lambda: tfdist.fit(ours, x, y, **given),
        lambda: theirs.fit(x, y, **given), rounds=rounds, target=3.0,
    )


def suite_replicas() -> list[report.Ratio]:
    """Compares small steps on two replicas of one process."""
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "2"}
    given = (_STEPS.value, _ROUNDS.value)
    return [_said(launch.run(compare_replicas, workers=1, args=given, env=quiet)[0])]


# ---- checkpoint ------------------------------------------------------------------------------


def suite_checkpoint() -> list[report.Ratio]:
    """Measures what saving a model of 100 MB, with its optimizer, costs."""
    import keras
    import numpy as np

    import tfdist

    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((2048,)), dense(4096), dense(8)])
    model.compile(keras.optimizers.Adam(), "mse")
    model.optimizer.build(model.trainable_variables)
    variables = [*model.variables, *model.optimizer.variables]
    size = sum(np.asarray(v).nbytes for v in variables)
    waits, wholes = [], []
    with tempfile.TemporaryDirectory() as folder:
        checkpointer = tfdist.Checkpointer(folder)
        for step in range(_ROUNDS.value):
            start = time.perf_counter()
            checkpointer.save(model, step=step)
            waits.append(time.perf_counter() - start)
            checkpointer.wait()
            wholes.append(time.perf_counter() - start)
        checkpointer.close()
    wait, whole = report.quartiles(waits), report.quartiles(wholes)
    print(f"checkpoint of {size / 1e6:.0f} MB: training waits {1000 * wait[1]:.0f} ms "
          f"({1000 * wait[0]:.0f} to {1000 * wait[2]:.0f}), whole {whole[1]:.2f} s "
          f"({whole[0]:.2f} to {whole[2]:.2f})")
    return [report.Ratio("checkpoint: whole / wait", whole[1] / wait[1], whole[0] / wait[2],
                         whole[2] / wait[0], wait[1], whole[1])]


# ---- engines ---------------------------------------------------------------------------------


def suite_engines() -> list[report.Ratio]:
    """Measures what an engine's start costs over that of the engine local."""

    def job(engine: str) -> Callable[[], object]:
        return lambda: launch.run(os.getpid, workers=2, engine=engine, timeout_secs=120)

    ratios = []
    for engine in [engine for engine in ENGINES if engine != "local"]:
        try:
            job(engine)()
        except (ImportError, RuntimeError, ValueError) as error:
            print(f"{engine}: not here ({str(error).splitlines()[0][:120]})")
            continue
        ratio = report.compare(
            f"start of {engine} / local", job(engine), job("local"), rounds=min(3, _ROUNDS.value)
        )
        ratios.append(_said(ratio))
        over = ratio.ours_secs - ratio.theirs_secs
        print(f"  {engine} takes {over:.1f} s over local's {ratio.theirs_secs:.1f} s")
    return ratios


# ---- all of them -----------------------------------------------------------------------------


def _said(ratio: report.Ratio) -> report.Ratio:
    print(ratio, flush=True)
    return ratio


def write(ratios: list[report.Ratio]) -> None:
    """Puts ratios into the README's table, each in the place of the one of its name."""
    readme = pathlib.Path(__file__).resolve().parent.parent / "README.md"
    lines = dict.fromkeys(table_of(readme, "benchmark table")[2:], "")
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines}
    for ratio in ratios:
        aim = "" if ratio.target is None else f"{ratio.target:g}"
        spread = f"{ratio.low:.2f} to {ratio.high:.2f}"
        rows[ratio.name] = f"| {ratio.name} | {ratio.median:.2f} | {spread} | {aim} |"
    heads = ["| what | ratio | quartiles | aim |", "|---|---|---|---|"]
    replace_table(readme, "benchmark table", [*heads, *rows.values()])


def machine() -> dict[str, Any]:
    """Says what it was measured on."""
    import keras
    import tensorflow as tf

    import tfdist

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=pathlib.Path(__file__).parent,
        capture_output=True, text=True, check=False,
    ).stdout.strip()
    return {"cores": os.cpu_count(), "python": platform.python_version(), "commit": commit,
            "tensorflow": tf.__version__, "keras": keras.__version__, "tfdist": tfdist.__version__}


def main(argv: list[str]) -> None:
    """Runs the suites that were asked for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; flags are given as --name=value.")
    suites: dict[str, Callable[[], list[Any]]] = {
        "step": suite_step, "replicas": suite_replicas, "checkpoint": suite_checkpoint,
        "engines": suite_engines,
    }
    torch = _TORCH.value if _PEER.value == "torch-ddp" else ""
    reduction = functools.partial(benchmark_reduction.suite_reduction, _ROUNDS.value, torch=torch)
    suites["reduction"] = reduction
    for name, suite in benchmark_processes.SUITES.items():
        suites[name] = functools.partial(suite, _ROUNDS.value, _PLOT.value)
    if unknown := set(_SUITES.value) - set(suites):
        raise app.UsageError(f"--suite has {sorted(unknown)}; there are {', '.join(suites)}.")
    results = [result for name in _SUITES.value for result in suites[name]()]
    if _WRITE.value:
        write([result for result in results if isinstance(result, report.Ratio)])
    if _OUTPUT.value:
        rows = [(type(result), dataclasses.asdict(result)) for result in results]
        found = {"machine": machine(),
                 "ratios": [row for kind, row in rows if kind is report.Ratio],
                 "forecasts": [row for kind, row in rows if kind is not report.Ratio]}
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    app.run(main)
