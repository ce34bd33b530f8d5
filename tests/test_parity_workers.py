"""Does training on several workers give what stock Keras gives on one device?

As test_parity.py, with rows that run in a few jobs of many rows each.
"""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import pytest
from parity import harness, selection, worlds
from parity.case import Case

_ROWS_A_JOB = 40
_JOB_SECS = 500


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


@pytest.mark.timeout(_JOB_SECS + 60)  # the first row of a job waits for all of the job
@pytest.mark.parametrize(("case", "world"), list(selection.rows_in("2 workers", "3 workers")))
def test_row(
    case: Case,
    world: str,
    outcomes_of_workers: Callable[[Case, str], list[harness.Outcome]],
) -> None:
    first, *others = outcomes_of_workers(case, world)
    for rank, other in enumerate(others, start=1):
        assert not harness.differences(other, first, 0) or case.refused, f"worker {rank} and 0"
    assert worlds.problems(case, first) == []
