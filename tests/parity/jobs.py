"""Which rows run together, and in what processes?  Jobs of some rows, each in processes of its own.

TensorFlow lets go of few of its graphs, so that a row takes the longer the more of them a process
has run before: four times as long after two hundred. And a process for each row would import
TensorFlow for as long as the row takes.
"""

from __future__ import annotations

import pathlib
import pickle
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from parity import apart, harness, stored, table, worker
from parity.case import Case
from tfdist import testing

# A row takes 2 to 5 s of a core, a few times that where the machine is busy, and the first of a job
# waits for all: see faulthandler_timeout in setup.cfg. Each worker imports TensorFlow once a job.
ROWS_A_JOB = 10
ROWS_A_JOB_OF_WORKERS = 20
JOB_SECS = 900.0
ORACLE = "one device"
_NOT_RUN = ("NotRun", "the job ended before this row")
NO_OUTCOME = (_NOT_RUN[0], "RuntimeError")


def run(
    names: Sequence[str],
    *,
    world: str,
    is_stock: bool = False,
    oracles_folder: pathlib.Path | None = None,
) -> dict[str, list[harness.Outcome]]:
    """Runs rows in one job.

    Args:
        names: Names of the rows.
        world: One of `case.WORLDS`.
        is_stock: Whether stock Keras trains, or tfdist does.
        oracles_folder: Where the job puts what stock Keras gives on one device, unless it is there.
            Not for workers: all but one of them would wait for it.

    Returns:
        Row to outcomes: one of each worker in rank order, or the only one. A row that a process did
        not come to the end of, because it or an earlier one brought the job down, has an outcome
        that says so.
    """
    workers = int(world.split()[0]) if world.endswith("workers") else 1
    with tempfile.TemporaryDirectory() as folder:
        failure = _run_job(
            worker.run_rows, list(names), folder, workers=workers, world=world, is_stock=is_stock,
            oracles_folder=oracles_folder and str(oracles_folder),
        )
        return {
            name: [
                _read(pathlib.Path(folder, worker.file_name(index, rank)), failure)
                for rank in range(workers)
            ]
            for index, name in enumerate(names)
        }


def oracles(names: Sequence[str], folder: pathlib.Path) -> dict[str, harness.Outcome]:
    """Returns what stock Keras gives on one device: what is kept of it, or from a run now.

    Args:
        names: Names of the rows.
        folder: As of `computed`.
    """
    kept = {row.name: stored.find(row) for row in table.ROWS if row.name in names}
    found = {name: outcome for name, outcome in kept.items() if outcome is not None}
    return found | computed([name for name in names if name not in found], folder)


def computed(names: Sequence[str], folder: pathlib.Path) -> dict[str, harness.Outcome]:
    """Returns what stock Keras gives on one device, from a run of these tests.

    Args:
        names: Names of the rows.
        folder: Where the outcomes go, and where those are that are there already; one for all who
            run rows of the same table.
    """
    paths = {name: folder / worker.oracle_name(name) for name in names}
    missing = [name for name in names if not paths[name].exists()]
    failure = _run_job(worker.run_oracles, missing, str(folder)) if missing else _NOT_RUN
    return {name: _read(path, failure) for name, path in paths.items()}


class Jobs:
    """The jobs of a selection of rows, each run when the first of its rows is asked for.

    Args:
        selected: World, or `ORACLE` for stock Keras on one device, to the names of its rows, in the
            order in which they are asked for.
        folder: As in `oracles`.
    """

    def __init__(self, selected: Mapping[str, Sequence[str]], folder: pathlib.Path) -> None:
        self._selected, self._folder = selected, folder
        self._outcomes: dict[tuple[str, str], list[harness.Outcome]] = {}
        self._oracles: dict[str, harness.Outcome] = {}
        self._computed: dict[str, harness.Outcome] = {}

    def outcomes(self, case: Case, world: str) -> list[harness.Outcome]:
        """Returns a row's outcomes, as `run` gives them."""
        if (world, case.name) not in self._outcomes:
            names = self._selected[world]
            first = names.index(case.name)
            of_workers = world.endswith("workers")
            size = ROWS_A_JOB_OF_WORKERS if of_workers else ROWS_A_JOB
            names = names[first : first + size]
            folder = None if of_workers else self._folder
            ran = run(names, world=world, oracles_folder=folder)
            self._oracles |= oracles(names, self._folder)
            self._outcomes |= {(world, name): outcomes for name, outcomes in ran.items()}
        return self._outcomes[world, case.name]

    def computed_oracle(self, case: Case) -> harness.Outcome:
        """Returns what stock Keras gives for a row now, whatever is kept of it."""
        if case.name not in self._computed:
            names = self._selected[ORACLE]
            first = names.index(case.name)
            self._computed |= computed(names[first : first + ROWS_A_JOB], self._folder)
        return self._computed[case.name]

    def oracle(self, case: Case) -> harness.Outcome:
        """Returns what stock Keras gives for a row of which the outcomes were asked for."""
        return self._oracles[case.name]


def _run_job(
    fn: Callable[..., None], names: list[str], folder: str, workers: int = 1, **options: Any
) -> tuple[str, str]:
    """Runs rows in new processes; returns the error of those that have left no outcome."""
    try:
        if workers > 1:
            testing.run_workers(
                fn, workers=workers, args=(names, folder), kwargs=options, timeout_secs=JOB_SECS
            )
        else:
            apart.call(fn, names, folder, timeout_secs=JOB_SECS, **options)
    except RuntimeError as error:
        return "RuntimeError", f"the job of this row failed: {error}"
    return _NOT_RUN


def _read(path: pathlib.Path, failure: tuple[str, str]) -> harness.Outcome:
    if not path.exists():
        return harness.Outcome(error=failure)
    return pickle.loads(path.read_bytes())
