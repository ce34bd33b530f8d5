"""Does training on replicas and workers give what stock Keras gives on one device?

One test is one row of the table in one world. The quick selection runs by default; "slow" is the
whole table. The rows of worker processes run in a few jobs of many rows each.
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from parity import harness, table, worlds
from parity.case import Case

_QUICK_WORLDS = ("2", "2 workers")
_ROWS_A_JOB = 40
_JOB_SECS = 500
_NAMES = [case.name for case in table.ROWS]


def _selection() -> Iterator[Any]:
    for case in table.ROWS:
        for world in case.worlds:
            marks = [] if case.quick and world in _QUICK_WORLDS else [pytest.mark.slow]
            if world.endswith("workers"):  # the first row of a job waits for all of the job
                marks.append(pytest.mark.timeout(_JOB_SECS + 60))
            yield pytest.param(case, world, id=f"{case.name}-{world}", marks=marks)


@pytest.fixture(scope="session")
def outcomes_of_workers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Case, str], list[harness.Outcome]]:
    """Runs the selected rows of a world in jobs, each when the first of its rows is asked for."""
    selected: dict[str, list[str]] = {}
    for item in request.session.items:
        asked = item.callspec.params if hasattr(item, "callspec") else {}
        if asked.get("world", "").endswith("workers"):
            selected.setdefault(asked["world"], []).append(asked["case"].name)
    done: dict[tuple[str, str], list[harness.Outcome]] = {}

    def outcomes(case: Case, world: str) -> list[harness.Outcome]:
        if (world, case.name) not in done:
            first = selected[world].index(case.name)
            names = selected[world][first : first + _ROWS_A_JOB]
            folder = tmp_path_factory.mktemp("rows")
            ran = worlds.on_workers(names, int(world.split()[0]), pathlib.Path(folder), _JOB_SECS)
            done.update({(world, name): ran[name] for name in names})
        return done[world, case.name]

    return outcomes


@pytest.mark.parametrize(("case", "world"), list(_selection()))
def test_row(case: Case, world: str, request: pytest.FixtureRequest) -> None:
    if world.endswith("workers"):
        first, *others = request.getfixturevalue("outcomes_of_workers")(case, world)
        for rank, other in enumerate(others, start=1):
            assert not harness.differences(other, first, 0) or case.refused, f"worker {rank} and 0"
    else:
        first = worlds.on_replicas(case, int(world))
    assert worlds.problems(case, first) == []


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
