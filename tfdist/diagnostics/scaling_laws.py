"""What would more devices bring?

Two laws, fitted to times that were measured: Amdahl's for a fixed amount of work, Gustafson's for
work that grows with the devices.

Synopsis:

    >>> times = [10.0, 5.5, 3.25]  # seconds a step on 1, 2 and 4 devices
    >>> fit = amdahl([1, 2, 4], times)
    >>> round(fit.serial_secs, 2), round(fit.parallel_secs, 2)
    (1.0, 9.0)
    >>> round(fit.efficiency(8), 2)
    0.59
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Amdahl:
    """A step's time as a part that more devices shorten, and a part that they do not.

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
        """Returns the time of a step on a number of devices, in seconds."""
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
        devices: Numbers of devices, at least two different ones.
        secs: Seconds of the same step on each of them.

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
        devices: Numbers of devices, at least one above 1.
        speed_ups: Work per second on each of them, relative to one device.

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
