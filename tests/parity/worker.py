"""What does each process of a job of rows do? All of them, one after the other."""

from __future__ import annotations

import os
import pathlib
import pickle
import sys
import time
import zlib
from typing import Any


def run_rows(
    names: list[str],
    folder: str,
    *,
    world: str,
    is_stock: bool = False,
    oracles_folder: str | None = None,
) -> None:
    """Runs rows of the table, alone or as one of several workers; writes each outcome to a file.

    Args:
        names: Names of the rows.
        folder: Where the files go.
        world: One of `case.WORLDS`.
        is_stock: Whether stock Keras trains.
        oracles_folder: As in `jobs.run`; of rows of which nothing is kept.
    """
    _choose_backend()
    import tfdist
    from parity import harness, stored, worlds

    strategy, cluster = worlds.strategy_of(world), tfdist.detect_cluster()
    rank = cluster.rank if cluster else 0
    for index, case in enumerate(_rows(names)):
        start = time.monotonic()
        outcome = harness.run(case, harness.api_of(strategy, case, is_stock=is_stock))
        print(f"{case.name}: {time.monotonic() - start:.1f} s {outcome.error[0]}", flush=True)
        _write(outcome, pathlib.Path(folder, file_name(index, rank)))
        if oracles_folder is not None and stored.find(case) is None:
            _add_oracle(case, pathlib.Path(oracles_folder))


def run_oracles(names: list[str], folder: str) -> None:
    """Runs rows by stock Keras on one device; writes each outcome that is not there to a file."""
    _choose_backend()
    for case in _rows(names):
        _add_oracle(case, pathlib.Path(folder))


def judge(row: str, packages: str, *, replicas: int) -> str:
    """Returns the verdict of a row on replicas of this process, by another copy of tfdist.

    Args:
        row: Name of the row.
        packages: The folder of the copy.
        replicas: How many.
    """
    _choose_backend()
    sys.path.insert(0, packages)
    import tfdist
    from parity import verdicts

    assert pathlib.Path(tfdist.__file__).is_relative_to(packages)
    tfdist.testing.logical_cpus(verdicts.LOGICAL_CPUS)
    (verdict,) = verdicts.verdicts(_rows([row]), world=str(replicas), is_stock=False)
    return str(verdict.result)


def _add_oracle(case: Any, folder: pathlib.Path) -> None:
    from parity import worlds

    path = folder / oracle_name(case.name)
    if not path.exists():
        _write(worlds.oracle(case), path)


def _choose_backend() -> None:
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


def _rows(names: list[str]) -> list[Any]:
    from parity import table, trainings

    rows = {case.name: case for case in table.ROWS}
    return [rows.get(name) or trainings.case_of(trainings.training_of(name)) for name in names]


def _write(outcome: Any, path: pathlib.Path) -> None:
    """Writes a file that is there as a whole or not at all, whoever else writes it."""
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(pickle.dumps(outcome))
    part.replace(path)


def oracle_name(name: str) -> str:
    """Names the file of a row's outcome on one device; names of rows are no names of files."""
    return f"oracle_{zlib.crc32(name.encode()):08x}.pickle"


def file_name(index: int, rank: int) -> str:
    """Names the file of a row's outcome on a worker."""
    return f"row{index}_worker{rank}.pickle"
