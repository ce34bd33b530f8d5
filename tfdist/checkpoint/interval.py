"""Is it time?  Every n steps, or every n seconds.

Synopsis:

    >>> every = parse_every(100)
    >>> every.is_due(99, now=0.0), every.steps_left(99), every.is_due(100, now=0.0)
    (False, 1, True)
    >>> parse_every("10m").secs
    600.0
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import Any

from tfdist.cluster.wording import shorten

_MOST = 10**12  # steps, or seconds: workers exchange 64-bit integers
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclasses.dataclass
class Every:
    """Tells when something that happens at intervals is due.

    Attributes:
        steps: Due at multiples of this number of steps; None if not by steps.
        secs: Due when this many seconds have passed; None if not by time.
    """

    steps: int | None = None
    secs: float | None = None
    _last_step: int = 0
    _last_time: float = 0.0

    def restart(self, step: int, *, now: float) -> None:
        """Counts from here: it has just happened, or the run begins here.

        Args:
            step: Steps that the run has made.
            now: Seconds, of a monotonic clock.
        """
        self._last_step, self._last_time = step, now

    def is_due(self, step: int, *, now: float) -> bool:
        """Tells whether it is due at this step and time."""
        if self.steps is not None:
            return step // self.steps > self._last_step // self.steps
        return self.secs is not None and now - self._last_time >= self.secs

    def steps_left(self, step: int) -> int | None:
        """Returns how many steps are left until it is due; None if not by steps."""
        return None if self.steps is None else self.steps - step % self.steps


def parse_every(every: Any) -> Every:
    """Reads an interval.

    Args:
        every: A whole number of steps; a text with a unit, "90s", "10m" or "1.5h"; a `timedelta`;
            or None for never.

    Raises:
        ValueError: It is something else, or not above zero.
    """
    if every is None:
        return Every()
    if type(every) is int and 0 < every <= _MOST:
        return Every(steps=every)
    secs = 0.0
    if isinstance(every, datetime.timedelta):
        secs = every.total_seconds()
    elif isinstance(every, str) and (match := re.fullmatch(r"(\d+(?:\.\d*)?) ?([smh])", every)):
        secs = float(match[1]) * _UNITS[match[2]]
    if not 0 < secs <= _MOST:
        raise ValueError(
            f"save_every={shorten(every)} must be a whole number of steps from 1, a time such as "
            "'90s', '10m' or '1.5h', or a datetime.timedelta."
        )
    return Every(secs=secs)
