"""Which rows are tested in which worlds, and which of them in the quick part?

"not slow" is a few rows on two replicas and two workers. "slow and not table" is, of all others,
those that have their turn, in their hardest world and in further ones, see rotation.py. "slow" is
all of the table.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from parity import rotation, table
from parity.case import Case

_QUICK_WORLDS = ("2", "2 workers")
_HARDEST_FIRST = ("3 workers", "2 workers", "4", "2")
# Faults of test_mutations.py that workers do not show: replicas of one process share the objects of
# a model, and four of them leave more of them without a row than three workers do.
_HARDEST = {
    "add_loss with synchronized BatchNormalization": "4",
    "synchronized BatchNormalization, batches smaller than four replicas": "4",
}


def rows_in(*worlds: str) -> Iterator[Any]:
    """Gives the parameters `(case, world)` of every row that runs in one of these worlds."""
    for case in table.ROWS:
        for world in case.worlds:
            if world in worlds:
                marks = _marks(case, world)
                yield pytest.param(case, world, id=f"{case.name}-{world}", marks=marks)


def oracles() -> Iterator[Any]:
    """Gives the parameter `case` of every row of which stock Keras's outcome is kept."""
    for case in table.ROWS:
        marks = [pytest.mark.slow]
        if not rotation.has_turn(case.name, rotation.ORACLES):
            marks.append(pytest.mark.table)
        yield pytest.param(case, id=case.name, marks=marks)


def hardest(case: Case) -> str:
    """Returns the world in which a row shows most of what can go wrong."""
    first = next(world for world in _HARDEST_FIRST if world in case.worlds)
    return _HARDEST.get(case.name, first)


def _marks(case: Case, world: str) -> list[Any]:
    if case.quick and world in _QUICK_WORLDS:
        return []
    name = f"{case.name}-{world}"
    is_hardest = world == hardest(case)
    parts = rotation.HARDEST_WORLDS if is_hardest else rotation.FURTHER_WORLDS
    has_turn = rotation.has_turn(name, parts)
    return [pytest.mark.slow] if has_turn else [pytest.mark.slow, pytest.mark.table]
