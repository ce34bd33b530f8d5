"""Where does a row run?

One device with stock Keras (the oracle), logical CPUs of this process under MirroredStrategy, and
worker processes under MultiWorkerMirroredStrategy. The oracle's outcomes are kept: a row's worlds
are all compared with one run of it.
"""

from __future__ import annotations

import functools
import pathlib
import pickle
from typing import Any

import tensorflow as tf

import tfdist
from parity import harness, worker
from parity.case import Case
from tfdist import testing


@functools.cache
def local_strategy(replicas: int) -> tf.distribute.Strategy:
    """Returns a MirroredStrategy over logical CPUs of this process."""
    strategy = tfdist.get_strategy(f"{replicas}xcpu", cluster=None)
    assert isinstance(strategy, tf.distribute.MirroredStrategy)
    assert strategy.num_replicas_in_sync == replicas > 1
    return strategy


_oracles: dict[str, harness.Outcome] = {}


def oracle(case: Case) -> harness.Outcome:
    """Returns what stock `keras.Model.fit` gives on one device."""
    if case.name not in _oracles:
        _oracles[case.name] = harness.run(case, harness.stock())
    return _oracles[case.name]


def on_replicas(case: Case, replicas: int) -> harness.Outcome:
    """Returns what tfdist gives on logical CPUs of this process."""
    strategy = local_strategy(replicas)
    return harness.run(case, harness.distributed(strategy, **case.shapes()))


def on_workers(
    names: list[str],
    workers: int,
    folder: pathlib.Path,
    timeout_secs: float,
    *,
    is_stock: bool = False,
) -> dict[str, list[harness.Outcome]]:
    """Runs rows in worker processes, all rows in the same ones.

    Returns:
        Row to outcomes in rank order. A row that a worker did not come to the end of, because it
        or an earlier one brought the job down, has an outcome that says so.
    """
    failure = ("NotRun", "the workers ended before this row")
    try:
        testing.run_workers(
            worker.run_rows,
            workers=workers,
            args=(names, str(folder), is_stock),
            timeout_secs=timeout_secs,
        )
    except RuntimeError as error:
        failure = ("RuntimeError", f"the workers' job failed: {error}")
    return {
        name: [_read(folder / worker.file_name(index, rank), failure) for rank in range(workers)]
        for index, name in enumerate(names)
    }


def _read(path: pathlib.Path, failure: tuple[str, str]) -> Any:
    if not path.exists():
        return harness.Outcome(error=failure)
    return pickle.loads(path.read_bytes())


def problems(case: Case, outcome: harness.Outcome) -> list[str]:
    """Says what is wrong with a row's outcome; an empty list where it is as it has to be."""
    expected = oracle(case)
    if case.refused:
        assert expected.error[0], "Keras does not refuse this row on one device"
        same = outcome.error[0] == expected.error[0]
        return [] if same else [f"error {outcome.error}, on one device {expected.error}"]
    assert expected.error == ("", ""), f"stock Keras fails on one device: {expected.error}"
    if not case.parity:
        return [] if outcome.error == ("", "") else [f"error {outcome.error}"]
    return harness.differences(outcome, expected, case.tolerance)
