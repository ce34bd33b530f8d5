"""How wrong is the forecast of scaling, and what limits many workers?  Real ones up to four.

    python scripts/benchmark_forecast.py --turns=3

A CNN that computes much and sums little, and an MLP that sums much, train on 1, 2, 3 and 4 workers
of this machine by turns, each pinned to a core. From one worker's step, and the sum of gradients
between two, the times on 2, 3 and 4 are predicted and compared; three and four share the cores of a
machine that has two. The last lines say what limits 8 to 1,024 workers with a core each and links
as this one.
"""

from __future__ import annotations

import os
import statistics
from typing import Any

import benchmark_models
from absl import app, flags

from tfdist import launch
from tfdist.diagnostics.forecast import Forecast, fit_link

_QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2"}
_NUMBERS = (1, 2, 3, 4)
_MANY = (8, 64, 256, 1024)
_STEPS, _BATCH = 12, 64
_TURNS = flags.DEFINE_integer("turns", 3, "How often each number of workers trains.", lower_bound=2)


def narrow_mlp() -> list[Any]:
    """Returns the layers of an MLP of 2 M parameters: 8.7 MB of gradients."""
    import keras

    dense = keras.layers.Dense
    return [keras.Input((64,)), dense(1024, "relu"), dense(1024, "relu"), dense(1024, "relu"),
            dense(10)]


_MODELS = {"CNN": benchmark_models.cnn, "MLP": narrow_mlp}


def trained(name: str, workers: int) -> dict[str, Any]:
    """Runs on each worker: returns the seconds of a step, its split, and bytes of gradients."""
    import tfdist

    benchmark_models.pin_to_core()
    with tfdist.get_strategy("cpu").scope():
        model = benchmark_models.compiled(_MODELS[name]())
    x, y = benchmark_models.zeros(model, _STEPS * _BATCH * workers)
    options: dict[str, Any] = {"batch_size": _BATCH * workers, "verbose": 0}
    tfdist.fit(model, x, y, **options)
    profile = tfdist.fit(model, x, y, epochs=3, profile=True, **options).profile
    return {"secs": profile.split.secs, "split": profile.split, "bytes": profile.gradient_bytes}


def forecast_of(name: str, turns: int) -> Forecast:
    """Trains on each number of workers by turns, and returns the forecast with what it missed."""
    found: dict[int, list[list[dict[str, Any]]]] = {n: [] for n in _NUMBERS}
    for _ in range(turns):
        for n in _NUMBERS:
            found[n].append(
                launch.run(trained, workers=n, args=(name, n), threads=1, env=_QUIET)
            )
    alone = [one for [one] in found[1]]
    middle = sorted(alone, key=lambda one: float(one["secs"]))[len(alone) // 2]
    sums = [
        (2, one["bytes"], one["split"].communication_secs) for of_two in found[2] for one in of_two
    ]
    return Forecast(
        middle["split"], middle["bytes"], fit_link(sums),
        measured={
            n: statistics.median(max(float(one["secs"]) for one in run) for run in runs)
            for n, runs in found.items()
        },
        spread_secs=statistics.stdev(float(one["secs"]) for one in alone),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    )


def main(argv: list[str]) -> None:
    """Prints what was measured, predicted and missed, and what limits more workers."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; flags are given as --name=value.")
    for name in _MODELS:
        found = forecast_of(name, _TURNS.value)
        print(f"{name}: {found.alone} on one worker, which differs by "
              f"{1000 * found.spread_secs:.1f} ms from process to process; "
              f"{found.num_bytes / 1e6:.2f} MB of gradients at "
              f"{found.link.bytes_per_sec / 1e6:.0f} MB/s; {found.cores} cores", flush=True)
        for n, secs in sorted(found.measured.items()):
            print(f"  {n} workers: measured {1000 * secs:.1f} ms a step, predicted "
                  f"{1000 * found.secs(n):.1f}, off by {100 * found.errors[n]:+.0f} %", flush=True)
            print(f"    {found.limit(n)}", flush=True)
        apart = Forecast(found.alone, found.num_bytes, found.link, spread_secs=found.spread_secs)
        for n in _MANY:
            print(f"  {apart.limit(n)}", flush=True)


if __name__ == "__main__":
    app.run(main)
