"""How fast is it, against what, and what would more devices bring? Arithmetic on measured times.

Synopsis:

    >>> times = [10.0, 5.5, 3.25]  # seconds a step on 1, 2 and 4 devices
    >>> fit = amdahl([1, 2, 4], times)
    >>> round(fit.serial_secs, 2), round(fit.parallel_secs, 2)
    (1.0, 9.0)
    >>> round(fit.efficiency(8), 2)
    0.59

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
    """An amount of which less is better, with nothing to divide it by.

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
    """Times two functions by turns, after a call of each that does not count.

    By turns, since the speed of a shared machine changes from minute to minute: a round's two times
    are neighbours, and its ratio means something where the times alone do not.

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
    # Who comes first in a round changes, so that neither always follows the other's garbage.
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


@dataclasses.dataclass(frozen=True)
class Amdahl:
    """A step's time as a part that more devices shorten, and one that they do not.

    `T(n) = serial + parallel / n` (G. Amdahl, AFIPS 1967).

    Attributes:
        serial_secs: Seconds a step, however many devices there are.
        parallel_secs: Seconds a step on one device that n devices share.
        worst_error: Largest relative error at the points that it was fitted to.
    """

    serial_secs: float
    parallel_secs: float
    worst_error: float

    def secs(self, devices: int) -> float:
        """Returns the time of a step on so many devices, in seconds."""
        return self.serial_secs + self.parallel_secs / devices

    def efficiency(self, devices: int) -> float:
        """Returns the speed-up over one device, divided by the devices."""
        return self.secs(1) / self.secs(devices) / devices

    def most_devices(self, *, efficiency: float = 0.8, limit: int = 1024) -> int:
        """Returns the largest number of devices, up to a limit, that keeps an efficiency."""
        good = (n for n in range(limit, 0, -1) if self.efficiency(n) >= efficiency)
        return next(good, 1)


def amdahl(devices: Sequence[int], secs: Sequence[float]) -> Amdahl:
    """Fits Amdahl's law to measured times by least squares, with neither part below 0.

    Args:
        devices: Numbers of devices, two different ones at least.
        secs: Seconds of the same step on so many.

    Raises:
        ValueError: There are not two different numbers of devices.
    """
    if len(set(devices)) < 2 or len(devices) != len(secs):
        raise ValueError(
            f"Times on two numbers of devices are needed, but there are {len(secs)} for "
            f"devices={list(devices)}. Measure on 1 and on more."
        )
    inverse = [1 / n for n in devices]
    mean_x, mean_y = statistics.fmean(inverse), statistics.fmean(secs)
    spread = sum((x - mean_x) ** 2 for x in inverse)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in zip(inverse, secs, strict=True)) / spread
    if slope < 0:  # more devices are slower: nothing is shared
        serial, parallel = mean_y, 0.0
    elif (serial := mean_y - slope * mean_x) < 0:
        squares = sum(x * x for x in inverse)
        parallel = sum(x * y for x, y in zip(inverse, secs, strict=True)) / squares
        serial = 0.0
    else:
        parallel = slope
    errors = [abs(serial + parallel * x - y) / y for x, y in zip(inverse, secs, strict=True)]
    return Amdahl(serial, parallel, max(errors))


def gustafson(devices: Sequence[int], speed_ups: Sequence[float]) -> float:
    """Fits Gustafson's law to measured speed-ups by least squares; returns the serial share.

    `S(n) = n - share * (n - 1)`, where work grows with the devices (J. Gustafson, CACM 1988).

    Args:
        devices: Numbers of devices, one above 1 at least.
        speed_ups: Work per second on so many, over that on one.

    Raises:
        ValueError: There is no number above 1.

    >>> gustafson([1, 2, 4], [1.0, 1.9, 3.7])
    0.1
    """
    others = [n - 1 for n in devices]
    if not any(others) or len(devices) != len(speed_ups):
        raise ValueError(
            f"Speed-ups on 1 and on more devices are needed, but there are {len(speed_ups)} for "
            f"devices={list(devices)}. Measure on 2 or more."
        )
    lost = sum(x * (n - s) for x, n, s in zip(others, devices, speed_ups, strict=True))
    return round(min(1.0, max(0.0, lost / sum(x * x for x in others))), 12)
