"""Measures tfdist against its peers, by turns in one run, and prints ratios with their spread.

    python scripts/benchmark.py --suite=step
    python scripts/benchmark.py --suite=step,checkpoint --rounds=15 --output=out.json
    python scripts/benchmark.py --suite=step,reduction --peer=orbit,torch-ddp

A ratio is our speed over the peer's: above 1 tfdist is faster. The quartiles of all rounds stand in
brackets; a machine that is busy with something else widens them. Suites:

    step        a small MLP: `fit`, `evaluate`, `predict` against Keras's and a hand-written loop,
                with --peer=orbit against Orbit's Controller too
    replicas    the same `fit` on two replicas of one process, against Keras's on two
    scaling     a CNN on one worker and on two, each pinned to one core, weak and strong, with a
                prediction for more, and --plot=FILE.png; `evaluate` and `predict` of it; two
                replicas against one
    input       a tf.data pipeline that is as slow as the step: how much of it hides?  What each
                worker makes and reads of a costly dataset, and of records, of what one does alone
    memory      the most that `fit` and a hand-written loop take; its "secs" are bytes
    reduction   an MLP of 21 M parameters on two workers: milliseconds of a step, and of its sum;
                an embedding of which few rows are touched; with --peer=torch-ddp against torch
    import      what importing tfdist adds to TensorFlow's and Keras's import, in seconds
    checkpoint  a model of 100 MB: how long training waits for a save, and how long it takes
    sharding    the same MLP with Adam's states in slices on two workers, against whole ones: times
                of a step, and bytes of states, of memory and of what is received
    engines     a job of two workers that does nothing, on each engine that is installed
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import platform
import subprocess
from collections.abc import Callable
from typing import Any

import benchmark_input
import benchmark_page
import benchmark_processes
import benchmark_reduction
import benchmark_scaling
import benchmark_sharding
import benchmark_starts
import benchmark_steps
from absl import app, flags

from tfdist.diagnostics import speed
from tfdist.diagnostics.forecast import Forecast

_PEERS = ("torch-ddp", "orbit")

_SUITES = flags.DEFINE_list("suite", ["step"], "Suites of those above, as in step,checkpoint.")
_ROUNDS = flags.DEFINE_integer("rounds", 9, "Rounds of each comparison.", lower_bound=1)
_STEPS = flags.DEFINE_integer("steps", 600, "Steps of one timing in suite step.", lower_bound=50)
_PEER = flags.DEFINE_list(
    "peer", [], f"With whom suites reduction and step are compared besides: {', '.join(_PEERS)}."
)
_TORCH = flags.DEFINE_string(
    "torch", "torch==2.13.0+cpu", "What pip installs for torch-ddp, in .venv-torch, once; a build "
    "for CPUs is enough."
)
_ORBIT = flags.DEFINE_string(
    "orbit", "tf-models-official==2.20.0", "What pip installs for orbit, in .venv-orbit, once."
)
_OUTPUT = flags.DEFINE_string("output", None, "A JSON file to write, besides what is printed.")
_WRITE = flags.DEFINE_bool("write", False, "Whether to put what was found into docs/.")
_PLOT = flags.DEFINE_string("plot", None, "PNG of suite scaling: FILE_weak.png, FILE_strong.png.")

Result = speed.Ratio | speed.Cost | Forecast


def suites() -> dict[str, Callable[[], list[Any]]]:
    """Returns what runs each suite, as the flags want it."""
    rounds, steps = _ROUNDS.value, _STEPS.value
    torch = _TORCH.value if "torch-ddp" in _PEER.value else ""
    orbit = _ORBIT.value if "orbit" in _PEER.value else ""
    return {
        "step": lambda: benchmark_steps.suite_step(steps, rounds, orbit=orbit),
        "replicas": lambda: benchmark_steps.suite_replicas(steps, rounds),
        "scaling": lambda: benchmark_scaling.suite_scaling(rounds, _PLOT.value),
        "input": lambda: benchmark_input.suite_input(rounds),
        "memory": lambda: benchmark_processes.suite_memory(rounds),
        "reduction": lambda: benchmark_reduction.suite_reduction(rounds, torch=torch),
        "import": lambda: benchmark_starts.suite_import(rounds),
        "checkpoint": lambda: benchmark_starts.suite_checkpoint(rounds),
        "sharding": lambda: benchmark_sharding.suite_sharding(rounds),
        "engines": lambda: benchmark_starts.suite_engines(rounds),
    }


def machine() -> dict[str, Any]:
    """Says what it was measured on."""
    import keras
    import tensorflow as tf

    import tfdist

    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=pathlib.Path(__file__).parent,
        capture_output=True, text=True, check=False,
    ).stdout.strip()
    return {"cpu": cpu(), "cores": os.cpu_count(), "python": platform.python_version(),
            "commit": commit, "tensorflow": tf.__version__, "keras": keras.__version__,
            "tfdist": tfdist.__version__}


def cpu() -> str:
    """Returns the processor's name, and the widest vectors that it has, as Linux tells them."""
    path = pathlib.Path("/proc/cpuinfo")
    if not path.exists():
        return platform.processor() or platform.machine()
    facts = dict(
        [part.strip() for part in line.split(":", 1)]
        for line in path.read_text().splitlines() if ":" in line
    )
    name, flags_of = facts.get("model name", platform.machine()), facts.get("flags", "").split()
    widest = next((one for one in ("avx512_vnni", "avx512f", "avx2") if one in flags_of), "")
    return f"{name} ({widest})" if widest else name


def main(argv: list[str]) -> None:
    """Runs the suites that were asked for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; flags are given as --name=value.")
    for flag, wanted, there in (
        ("suite", _SUITES.value, suites()), ("peer", _PEER.value, _PEERS)
    ):
        if unknown := set(wanted) - set(there):
            raise app.UsageError(f"--{flag} has {sorted(unknown)}; there are {', '.join(there)}.")
    run = suites()
    results: list[Result] = [result for name in _SUITES.value for result in run[name]()]
    on = machine() if _WRITE.value or _OUTPUT.value else {}
    if _WRITE.value:
        benchmark_page.write(
            [result for result in results if not isinstance(result, Forecast)],
            machine=f"{on['cpu']}, {on['cores']} cores, Python {on['python']}, TensorFlow "
            f"{on['tensorflow']}, Keras {on['keras']}",
        )
    if _OUTPUT.value:
        kinds = {"ratios": speed.Ratio, "costs": speed.Cost, "forecasts": Forecast}
        found = {"machine": on} | {
            name: [dataclasses.asdict(result) for result in results if isinstance(result, kind)]
            for name, kind in kinds.items()
        }
        pathlib.Path(_OUTPUT.value).write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    app.run(main)
