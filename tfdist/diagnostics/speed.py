"""How fast is it, compared with what? Arithmetic on measured times.

Synopsis (the first time of each pair is ours):

    >>> ratio_of("ours / theirs", [(1.0, 2.0), (1.0, 2.5), (1.0, 3.0)]).median
    2.5

Standard library only: nothing here measures a model, or knows one.
"""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Callable, Sequence


@dataclasses.dataclass(frozen=True)
class Ratio:
    """Our speed over theirs, measured in one interleaved run; above 1 we are faster.

    Attributes:
        name: What was measured, against what.
        median: Of the ratios of all rounds.
        low: Their lower quartile.
        high: Their upper quartile.
        ours_secs: Median of our times, in seconds.
        theirs_secs: Median of theirs.
        target: The least ratio that was aimed at, or None.
    """

    name: str
    median: float
    low: float
    high: float
    ours_secs: float
    theirs_secs: float
    target: float | None = None

    def __str__(self) -> str:
        aim = "" if self.target is None else f", aim {self.target:g}"
        return f"{self.name}: {self.median:.2f} ({self.low:.2f} to {self.high:.2f}{aim})"


@dataclasses.dataclass(frozen=True)
class Cost:
    """An amount, of which less is better, without a counterpart to compare with.

    Attributes:
        name: What was measured, with its unit.
        median: Of all rounds.
        low: Their lower quartile.
        high: Their upper quartile.
        target: The most that was aimed at, or None.
    """

    name: str
    median: float
    low: float
    high: float
    target: float | None = None

    def __str__(self) -> str:
        aim = "" if self.target is None else f", aim {self.target:g} at most"
        return f"{self.name}: {self.median:.3f} ({self.low:.3f} to {self.high:.3f}{aim})"


def cost_of(name: str, values: Sequence[float], *, target: float | None = None) -> Cost:
    """Returns the cost of measured amounts.

    Args:
        name: What was measured, with its unit.
        values: The amount of each round.
        target: The most that is aimed at.
    """
    low, median, high = quartiles(values)
    return Cost(name, median, low, high, target)


def compare(
    name: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    *,
    rounds: int = 9,
    target: float | None = None,
    clock: Callable[[], float] = time.perf_counter,
) -> Ratio:
    """Times two functions in turns, after one call of each that does not count.

    The speed of a shared machine changes from minute to minute. Within a round the two times follow
    each other, so their ratio is meaningful where the times alone are not.

    Args:
        name: What is measured, against what.
        ours: Does the work once.
        theirs: Does the same work.
        rounds: How often, from 1.
        target: The least ratio that is aimed at.
        clock: Gives the time in seconds.
    """
    if rounds < 1:
        raise ValueError(f"rounds={rounds!r} must be 1 or more.")

    def secs_of(work: Callable[[], object]) -> float:
        start = clock()
        work()
        return clock() - start

    ours(), theirs()
    # The order changes from round to round, so that neither always follows the other's garbage.
    pairs = []
    for number in range(rounds):
        if number % 2:
            other, own = secs_of(theirs), secs_of(ours)
        else:
            own, other = secs_of(ours), secs_of(theirs)
        pairs.append((own, other))
    return ratio_of(name, pairs, target=target)


def ratio_of(
    name: str, pairs: Sequence[tuple[float, float]], *, target: float | None = None
) -> Ratio:
    """Returns the ratio of measured pairs.

    Args:
        name: What was measured, against what.
        pairs: Our time and theirs, in seconds, of each round.
        target: The least ratio that is aimed at.
    """
    low, median, high = quartiles([theirs / ours for ours, theirs in pairs])
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    return Ratio(name, median, low, high, ours, theirs, target)


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Returns the lower quartile, the median and the upper quartile.

    >>> quartiles([5.0, 1.0, 2.0, 4.0, 3.0])
    (2.0, 3.0, 4.0)
    """
    if len(values) == 1:
        return values[0], values[0], values[0]
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, median, high
