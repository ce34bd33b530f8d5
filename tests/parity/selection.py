"""Which rows are tested in which worlds, and which of them in the quick part?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from parity import table
from parity.case import Case

_QUICK_WORLDS = ("2", "2 workers")


def rows_in(*worlds: str) -> Iterator[Any]:
    """Gives the parameters `(case, world)` of every row that runs in one of these worlds."""
    for case in table.ROWS:
        for world in case.worlds:
            if world in worlds:
                marks = _marks(case, world)
                yield pytest.param(case, world, id=f"{case.name}-{world}", marks=marks)


def _marks(case: Case, world: str) -> list[Any]:
    if case.quick and world in _QUICK_WORLDS:
        return []
    # What holds on two workers mostly does on two replicas of one process.
    is_further = not case.steady or (world == "2" and "2 workers" in case.worlds)
    return [pytest.mark.slow, pytest.mark.table] if is_further else [pytest.mark.slow]
