"""tests of tfdist/diagnostics/batch_search.py"""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from tfdist.diagnostics.batch_search import largest


@given(
    limit=st.integers(0, 100_000), start=st.integers(1, 10_000), unit=st.integers(1, 64),
    precision=st.sampled_from([0, 0.05, 0.5]),
)  # fmt: skip
def test_largest(limit: int, start: int, unit: int, precision: float) -> None:
    asked: list[int] = []

    def fits(size: int) -> bool:
        asked.append(size)
        return size <= limit

    found = largest(fits, start=start, unit=unit, precision=precision)
    assert len(asked) == len(set(asked)) <= 40
    best = limit // unit * unit
    if best == 0:
        assert found is None
    else:
        assert found is not None
        assert found % unit == 0
        assert best - max(unit - 1, precision * best + unit) <= found <= best
    if precision == 0:
        assert (found or 0) == best


def test_it_ends_where_everything_fits() -> None:
    assert 100 < (largest(lambda size: True, start=8, unit=8, most=100) or 0) <= 808
