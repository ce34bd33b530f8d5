"""Does training on replicas of one process give what stock Keras gives on one device?

One test is one row of the table in one world. The quick selection runs by default; "slow and not
table" is each row where it is hardest, "slow" the whole table. Rows run in jobs of many rows each,
see parity/jobs.py. The worlds of several workers are in test_parity_workers.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from parity import harness, selection, table, worlds
from parity.case import Case
from parity.jobs import JOB_SECS, Jobs

_NAMES = [case.name for case in table.ROWS]


@pytest.mark.timeout(2 * JOB_SECS + 60)  # the first row of a job waits for all of the job
@pytest.mark.parametrize(("case", "world"), list(selection.rows_in("2", "4")))
def test_row(case: Case, world: str, jobs: Jobs) -> None:
    [outcome] = jobs.outcomes(case, world)
    assert worlds.problems(case, outcome, jobs.oracle(case)) == []


def test_names_are_unique() -> None:
    assert len(_NAMES) == len(set(_NAMES))


def test_every_shipped_class_has_a_row() -> None:
    """The lists of arguments in the table know what the installed Keras has, and the other way."""
    from parity import losses, metrics, optimizers

    assert len(optimizers.shipped()) >= 12
    assert len(metrics.shipped()) >= 40
    assert len(losses.shipped()) >= 15
    for name in optimizers.shipped():
        assert f"optimizer {name}" in _NAMES


@pytest.mark.parametrize(
    ("mine", "theirs", "expected"),
    [
        (1.0, 1.0, 0.0),
        (1.0, 1.5, 1 / 3),
        (float("nan"), float("nan"), 0.0),
        (float("inf"), float("inf"), 0.0),
        (float("nan"), 1.0, float("inf")),
        ([1.0, 2.0], [1.0, 4.0], 0.5),
        ([1.0], [1.0, 1.0], float("inf")),
    ],
)
def test_distance(mine: Any, theirs: Any, expected: float) -> None:
    assert harness.distance(mine, theirs) == pytest.approx(expected)


def test_differences_are_found() -> None:
    oracle = harness.Outcome(
        variables=[("kernel", np.array([1.0, 2.0])), ("iterations", np.array(4))],
        histories=[{"loss": [0.5, 0.4]}],
        evaluated={"loss": 0.3},
        predicted=[[0.1]],
    )
    assert harness.differences(oracle, oracle, 1e-9) == []
    planted = {
        "variables": [("kernel", np.array([1.0, 2.1])), ("iterations", np.array(4))],
        "histories": [{"loss": [0.5, 0.41]}],
        "evaluated": {"loss": 0.31},
        "predicted": [[0.2]],
    }
    for field, value in planted.items():
        wrong = dataclasses.replace(oracle, **{field: value})
        assert len(harness.differences(wrong, oracle, 1e-9)) == 1, field
        assert len(harness.differences(wrong, oracle, 0.2)) == 0, field
    missing = dataclasses.replace(oracle, histories=[{}])
    assert harness.differences(missing, oracle, 1e-9) != []
    counted = [("kernel", np.array([1.0, 2.0])), ("iterations", np.array(5))]
    skipped = dataclasses.replace(oracle, variables=counted)
    assert harness.differences(skipped, oracle, 10.0) == ["1: iterations by 2.5e-01"]
    fewer = dataclasses.replace(oracle, variables=counted[:1])
    assert harness.differences(fewer, oracle, 1e-9) != []
