"""How much faster are two workers than one?  A CNN, on workers that have one core each.

The suite `scaling` of benchmark.py; see there.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from typing import Any

import benchmark_models

from tfdist import launch
from tfdist.diagnostics import speed
from tfdist.diagnostics.forecast import Forecast, fit_link
from tfdist.training.time_split import Split

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}
_STEPS = 16
_PROCESSES = 3  # of each kind, by turns
_BATCH = 64  # of a worker, in weak scaling
_PASSES = ("evaluate", "predict")


def time_steps(
    device: str, global_batch: int, rounds: int, *, is_apart: bool = False
) -> dict[str, Any]:
    """Runs on each worker: returns the round with the median time of a step, and its split.

    The time is that of steps alone, without what a call of `fit` takes to begin. A worker that
    `is_apart` trains for itself.
    """
    import tfdist

    with tfdist.get_strategy(device, cluster=None if is_apart else "auto").scope():
        model = benchmark_models.compiled(benchmark_models.cnn())
    x, y = benchmark_models.zeros(model, _STEPS * global_batch)
    options: dict[str, Any] = {"batch_size": global_batch, "verbose": 0}
    tfdist.fit(model, x, y, **options)
    profiles = [
        tfdist.fit(model, x, y, epochs=2, profile=True, **options).profile for _ in range(rounds)
    ]
    profile = sorted(profiles, key=lambda profile: profile.split.secs)[rounds // 2]
    steps = _each_step(model, x, y, options) if is_apart else []
    return {
        "secs": profile.split.secs, "split": profile.split, "bytes": profile.gradient_bytes,
        "steps": steps,
    }


def _each_step(model: Any, x: Any, y: Any, options: dict[str, Any]) -> list[float]:
    """Returns what each step takes but the first, where a callback looks at all of them."""
    import keras

    import tfdist

    ends: list[float] = []
    listener = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda batch, logs: ends.append(time.perf_counter())
    )
    for _ in range(2):  # the first one may trace
        ends.clear()
        tfdist.fit(model, x, y, callbacks=[listener], **options)
    return [end - start for start, end in itertools.pairwise(ends)]


def time_passes(global_batch: int, rounds: int) -> dict[str, float]:
    """Returns the median time of a step of `evaluate` and `predict`, and what a call begins with.

    A step's time is the difference between long passes and short ones, so that it holds nothing of
    what a call takes to begin, which is "evaluate's start" and "predict's start".
    """
    import tfdist

    with tfdist.get_strategy("cpu").scope():
        model = benchmark_models.compiled(benchmark_models.cnn())
    options: dict[str, Any] = {"batch_size": global_batch, "verbose": 0}
    steps = (_STEPS // 2, 2 * _STEPS)
    data = [benchmark_models.zeros(model, count * global_batch) for count in steps]
    work = {
        "evaluate": lambda x, y: tfdist.evaluate(model, x, y, **options),
        "predict": lambda x, y: tfdist.predict(model, x, **options),
    }
    found = {}
    for name in _PASSES:
        work[name](*data[0])  # traces
        a_step, a_start = [], []
        for _ in range(rounds):
            secs = []
            for x, y in data:
                start = time.perf_counter()
                work[name](x, y)
                secs.append(time.perf_counter() - start)
            a_step.append((secs[1] - secs[0]) / (steps[1] - steps[0]))
            a_start.append(secs[0] - steps[0] * a_step[-1])
        found[name] = statistics.median(a_step)
        found[f"{name}'s start"] = statistics.median(a_start)
    return found


def work_of_worker(global_batch: int, rounds: int, *, has_passes: bool) -> dict[str, Any]:
    """Runs on each worker, on a core of its own: all that is compared between one and two."""
    benchmark_models.pin_to_core()
    found = time_steps("cpu", global_batch, rounds)
    return {**found, **(time_passes(global_batch, rounds) if has_passes else {})}


def _pinned(workers: int, global_batch: int, rounds: int, *, has_passes: bool) -> dict[str, Any]:
    values = launch.run(
        work_of_worker, workers=workers, args=(global_batch, rounds),
        kwargs={"has_passes": has_passes}, threads=1, env=_QUIET,
    )
    slowest = max(values, key=lambda value: float(value["secs"]))
    passes = [name for name in slowest if name.startswith(_PASSES)]
    return {**slowest, **{name: max(value[name] for value in values) for name in passes}}


def time_apart(rounds: int) -> dict[str, Any]:
    """Runs on each worker, on a core of its own, which trains as one that is alone."""
    benchmark_models.pin_to_core()
    return time_steps("cpu", _BATCH, rounds, is_apart=True)


def _two_apart(rounds: int) -> dict[str, float]:
    """Returns times of a step of two workers that do not know of each other.

    Returns:
        "slower": of the slower one. What two that wait for each other cannot fall below: the time
        that a process takes for the same step differs from process to process by up to a third, and
        stays for its life. "longer": the mean of the longer of two steps, one of each worker, over
        that of all steps: what it costs to wait once a step, with nothing sent.
    """
    times = launch.run(time_apart, workers=2, args=(rounds,), threads=1, env=_QUIET)
    first, second = (one["steps"] for one in times)
    longer = statistics.mean(max(pair) for pair in itertools.product(first, second))
    return {
        "slower": max(float(one["secs"]) for one in times),
        "longer": longer / statistics.mean([*first, *second]),
    }


def _replicas(device: str, rounds: int) -> float:
    [found] = launch.run(
        time_steps, workers=1, args=(device, 2 * _BATCH, rounds), threads=os.cpu_count() or 1,
        env=_QUIET,
    )
    return float(found["secs"])


def suite_scaling(rounds: int, plot: str | None) -> list[speed.Ratio | Forecast]:
    """Compares a CNN on two workers of one core with one such worker, and predicts more.

    Weak scaling keeps a worker's batch, strong scaling keeps the global one. And two replicas of
    one process against one, on the same cores with the same global batch: what replicas cost.
    """
    found: list[speed.Ratio | Forecast] = []
    runs: list[Any] = [
        (
            _pinned(1, _BATCH, rounds, has_passes=True),
            _pinned(2, 2 * _BATCH, rounds, has_passes=True),
            _pinned(2, _BATCH, rounds, has_passes=False),
            _two_apart(rounds),
        )
        for _ in range(_PROCESSES)
    ]
    for is_strong in (False, True):
        pairs = [(run[0], run[2] if is_strong else run[1]) for run in runs]
        work = 2 if is_strong else 1
        times = [(work * both["secs"], alone["secs"]) for alone, both in pairs]
        name = "strong" if is_strong else "weak"
        found.append(_ratio(f"CNN: efficiency of 2 workers, {name}", times,
                            target=None if is_strong else 0.97))
        found.append(_forecast(pairs, is_strong=is_strong, plot=plot))
    times = [(run[3]["slower"], run[0]["secs"]) for run in runs]
    found.append(_ratio("CNN: the slower of two workers that do not wait for each other", times))
    times = [(run[3]["longer"], 1.0) for run in runs]
    found.append(_ratio("CNN: a mean step of these two / the mean of the longer of two", times))
    for name in _PASSES:
        times = [(both[name], alone[name]) for alone, both, *_ in runs]
        found.append(_ratio(f"CNN: efficiency of 2 workers, {name}", times, target=0.97))
        starts = [statistics.median(run[i][f"{name}'s start"] for run in runs) for i in (0, 1)]
        print(f"  a call begins with {1000 * starts[0]:.0f} ms on one worker, "
              f"{1000 * starts[1]:.0f} ms on two")
    turns = [(_replicas("2xcpu", rounds), _replicas("cpu", rounds)) for _ in range(_PROCESSES)]
    found.append(_ratio("CNN: 1 replica / 2 replicas, same cores and batch", turns))
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
    for workers in (8, 64, 1024):
        print(f"  {workers:,} workers, predicted: {1000 * forecast.secs(workers):.1f} ms a step, "
              f"efficiency {forecast.efficiency(workers):.2f}")
    if plot:
        from tfdist.diagnostics.plot import plot_scaling

        path = plot.removesuffix(".png") + ("_strong.png" if is_strong else "_weak.png")
        plot_scaling(forecast, path)
        print(f"  {path} shows it")
    return forecast


def _secs(split: Split) -> float:
    return split.secs


def _ratio(name: str, pairs: list[tuple[float, float]], **options: Any) -> speed.Ratio:
    ratio = speed.ratio_of(name, pairs, **options)
    print(ratio, flush=True)
    return ratio
