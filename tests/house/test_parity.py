"""Does training on replicas of one process give what stock Keras gives on one device?

One test is one row of the table in one world, see parity/selection.py; and whether what is kept of
stock Keras's outcomes is what it gives. Rows run in jobs of many rows each, see parity/jobs.py. The
worlds of several workers are in test_parity_workers.py.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from parity import harness, rotation, selection, stored, table, worlds
from parity.case import Case
from parity.jobs import JOB_SECS, Jobs

_NAMES = [case.name for case in table.ROWS]


@pytest.mark.timeout(2 * JOB_SECS + 60)  # the first row of a job waits for all of the job
@pytest.mark.parametrize(("case", "world"), list(selection.rows_in("2", "4")))
def test_row(case: Case, world: str, jobs: Jobs) -> None:
    [outcome] = jobs.outcomes(case, world)
    assert worlds.problems(case, outcome, jobs.oracle(case)) == []


@pytest.mark.timeout(2 * JOB_SECS + 60)
@pytest.mark.parametrize("case", list(selection.oracles()))
def test_kept_oracle(case: Case, jobs: Jobs) -> None:
    """What is kept of stock Keras's outcomes is what it gives now."""
    kept = stored.find(case)
    if kept is None:
        pytest.skip("it is kept for other versions or another source: `make oracles` makes it anew")
    computed = jobs.computed_oracle(case)
    assert harness.differences(computed, kept, case.tolerance) == [] or case.refused
    assert computed.error[0] == kept.error[0]


def test_row_of_another_kind_has_no_kept_oracle() -> None:
    [case] = [case for case in table.ROWS if case.name == "uneven last batch"]
    assert stored.find(dataclasses.replace(case, batch_size=8)) is None
    assert stored.find(dataclasses.replace(case, name="unheard of")) is None


def test_outcomes_are_kept_to_the_last_bit(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(stored, "FOLDER", tmp_path)
    names = stored.kept_rows("batches")
    outcome = harness.Outcome(
        variables=[("kernel", np.array([[0.1, np.nan]])), ("count", np.array(3, np.int32))],
        histories=[{"loss": [0.5, np.float32(0.1)]}],
        evaluated={"loss": np.asarray(0.3)},
        predicted=[np.zeros((0, 2)), np.ones((2, 1), np.float32)],
    )
    failed = harness.Outcome(error=("ValueError", "no"))
    stored.write("batches", dict.fromkeys(names, outcome) | {names[1]: failed})
    cases = {case.name: case for case in table.ROWS}
    for name in names[2:]:
        found = stored.find(cases[name])
        assert harness.differences(found, outcome, 0) == []
        kinds = [value.dtype for _, value in found.variables]
        assert kinds == [value.dtype for _, value in outcome.variables]
    assert stored.find(cases[names[1]]) == harness.Outcome(error=("ValueError", ""))
    monkeypatch.setattr(stored, "_made_of", lambda name: {"source": "another"})
    stored._read.cache_clear()
    assert stored.find(cases[names[0]]) is None
    stored._read.cache_clear()


def test_source_of_a_row_is_all_that_makes_it() -> None:
    names = {module.__name__ for module in stored._sources(stored.modules()["batches"])}
    assert {"parity.batches", "parity.case", "parity.data", "parity.harness", "parity.models"} <= (
        names
    )
    assert "parity.losses" not in names


def test_names_are_unique() -> None:
    assert len(_NAMES) == len(set(_NAMES))


def test_every_row_has_its_turn_in_each_world(monkeypatch) -> None:
    worlds_of_all = ("2", "4", "2 workers", "3 workers")
    everything = {param.id for param in selection.rows_in(*worlds_of_all)}
    rows = {case.name for case in table.ROWS}
    seen: set[str] = set()
    last: list[set[str]] = []  # rows that the last commits have run
    for turn in range(rotation.FURTHER_WORLDS):
        monkeypatch.setattr(rotation, "commit", lambda turn=turn: f"{turn:08x}" + 32 * "0")
        params = list(selection.rows_in(*worlds_of_all))
        ran = [param for param in params if pytest.mark.table not in param.marks]
        assert 0.1 * len(params) < len(ran) < 0.35 * len(params)
        seen |= {param.id for param in ran}
        last.append({param.values[0].name for param in ran})
        if turn >= rotation.HARDEST_WORLDS - 1:
            assert set.union(*last[-rotation.HARDEST_WORLDS :]) == rows
    assert seen == everything


def test_the_turn_is_that_of_the_commit(monkeypatch) -> None:
    assert rotation.commit() == rotation.commit()
    assert len(rotation.commit()) == 40
    names = [str(number) for number in range(100)]
    parts = []
    for turn in range(4):
        monkeypatch.setattr(rotation, "commit", lambda turn=turn: f"{turn:08x}" + 32 * "0")
        assert f"part {turn % 4} of" in rotation.summary()
        parts.append({name for name in names if rotation.has_turn(name, 4)})
    assert sum(map(len, parts)) == len(set.union(*parts)) == 100


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
