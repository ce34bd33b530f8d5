"""Which rows are tested in which worlds, and which of them in the quick part?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from parity import table

_QUICK_WORLDS = ("2", "2 workers")


def rows_in(*worlds: str) -> Iterator[Any]:
    """Gives the parameters `(case, world)` of every row that runs in one of these worlds."""
    for case in table.ROWS:
        for world in case.worlds:
            is_quick = case.quick and world in _QUICK_WORLDS
            marks = [] if is_quick else [pytest.mark.slow]
            if world in worlds:
                yield pytest.param(case, world, id=f"{case.name}-{world}", marks=marks)
