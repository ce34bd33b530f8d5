"""Which rows are tested in which worlds, and which of them in the quick part?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from parity import table
from parity.case import Case

_QUICK_WORLDS = ("2", "2 workers")
_HARDER = {
    "2": ("2 workers", "4", "3 workers"),
    "4": ("3 workers",),
    "2 workers": ("3 workers",),
    "3 workers": (),
}


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
    # What holds in a harder world mostly does in an easier one: `make parity` alone runs both.
    is_further = any(harder in case.worlds for harder in _HARDER[world])
    return [pytest.mark.slow, pytest.mark.table] if is_further else [pytest.mark.slow]
