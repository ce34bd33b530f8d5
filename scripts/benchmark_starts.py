"""What do imports, engines and saving cost?  What a run pays besides its steps.

The suites `import`, `engines` and `checkpoint` of benchmark.py; see there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

from tfdist import launch
from tfdist.diagnostics import speed
from tfdist.launch.job import ENGINES

# Run in fresh processes. Names are what imports: `import tfdist` alone brings in next to nothing.
_IMPORT = """
import time
import keras, tensorflow
start = time.perf_counter()
import tfdist
for name in {names}:
    getattr(tfdist, name)
print(time.perf_counter() - start)
"""
_TRAINING = ("get_strategy", "fit", "evaluate", "predict")


def suite_import(rounds: int) -> list[speed.Cost]:
    """Measures what importing tfdist takes where TensorFlow and Keras are there already."""
    names = {
        "import of tfdist to train, after TensorFlow and Keras, s": repr(_TRAINING),
        "import of all of tfdist, s": "tfdist.__all__",
    }
    secs: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1 + rounds):
        for name, wanted in names.items():
            found = _secs_of_import(wanted)
            if number:  # the first one reads files that are in no cache yet
                secs[name].append(found)
    targets = dict.fromkeys(names, None) | {next(iter(names)): 0.1}
    costs = [speed.cost_of(name, secs[name], target=targets[name]) for name in names]
    for cost in costs:
        print(cost, flush=True)
    return costs


def _secs_of_import(names: str) -> float:
    environ = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    # Without compiled files, which pip makes when it installs, that is what would be measured.
    environ.pop("PYTHONDONTWRITEBYTECODE", None)
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT.format(names=names)], capture_output=True, text=True,
        check=True, env=environ,
    )
    return float(done.stdout)


def suite_checkpoint(rounds: int) -> list[speed.Ratio]:
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
        for step in range(rounds):
            start = time.perf_counter()
            checkpointer.save(model, step=step)
            waits.append(time.perf_counter() - start)
            checkpointer.wait()
            wholes.append(time.perf_counter() - start)
        checkpointer.close()
    wait, whole = speed.quartiles(waits), speed.quartiles(wholes)
    print(f"checkpoint of {size / 1e6:.0f} MB: training waits {1000 * wait[1]:.0f} ms "
          f"({1000 * wait[0]:.0f} to {1000 * wait[2]:.0f}), whole {whole[1]:.2f} s "
          f"({whole[0]:.2f} to {whole[2]:.2f})")
    return [speed.Ratio("checkpoint: whole / wait", whole[1] / wait[1], whole[0] / wait[2],
                         whole[2] / wait[0], wait[1], whole[1])]


def suite_engines(rounds: int) -> list[speed.Ratio]:
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
        ratio = speed.compare(
            f"start of {engine} / local", job(engine), job("local"), rounds=min(3, rounds)
        )
        print(ratio, flush=True)
        ratios.append(ratio)
        over = ratio.ours_secs - ratio.theirs_secs
        print(f"  {engine} takes {over:.1f} s over local's {ratio.theirs_secs:.1f} s")
    return ratios
