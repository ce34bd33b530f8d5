"""What is the largest batch that fits? Found by quadrupling, then by halving the gap.

Synopsis:

    >>> largest(lambda size: size <= 1000, start=64, unit=8)
    976
    >>> largest(lambda size: size <= 3, start=64, unit=8) is None
    True
"""

from __future__ import annotations

from collections.abc import Callable

_FACTOR = 4  # a compilation costs the same for any size


def largest(
    fits: Callable[[int], bool],
    *,
    start: int,
    unit: int,
    precision: float = 0.05,
    most: int = 2**24,
) -> int | None:
    """Returns a size that fits, within `precision` of the largest; None if not even `unit` fits.

    Args:
        fits: Tells whether a size fits; each call may take minutes.
        start: Where to begin.
        unit: Sizes are multiples of it.
        precision: How far below the largest size the answer may be, as a fraction of it.
        most: Where to stop, in units.
    """
    good, size = 0, max(start // unit, 1)
    while size <= most and fits(size * unit):
        good, size = size, size * _FACTOR
    bad = min(size, most + 1)  # the first one that does not fit, or is above the limit
    while bad - good > max(1, precision * good):
        size = good + (bad - good) // 2 if good else max(bad // _FACTOR, 1)
        if fits(size * unit):
            good = size
        else:
            bad = size
    return good * unit if good else None
