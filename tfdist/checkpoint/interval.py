"""Is it time?  Every so many steps, or every so many seconds.

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

_MOST = 10**12  # steps, or seconds: what the workers tell each other has 64 bits
_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclasses.dataclass
class Every:
    """Tells when something that happens every so often is due.

    Attributes:
        steps: Due at the multiples of this step number; None for not by steps.
        secs: Due when so many seconds have gone by; None for not by time.
    """

    steps: int | None = None
    secs: float | None = None
    _last_step: int = 0
    _last_time: float = 0.0

    def restart(self, step: int, *, now: float) -> None:
        """Counts from here: it has just happened, or the run begins here.

        Args:
            step: Steps that the run has made.
            now: Seconds, of a clock that never goes back.
        """
        self._last_step, self._last_time = step, now

    def is_due(self, step: int, *, now: float) -> bool:
        """Tells whether it is time at this step and second."""
        if self.steps is not None:
            return step // self.steps > self._last_step // self.steps
        return self.secs is not None and now - self._last_time >= self.secs

    def steps_left(self, step: int) -> int | None:
        """Returns how many steps are left until it is due; None where steps do not tell."""
        return None if self.steps is None else self.steps - step % self.steps


def parse_every(every: Any) -> Every:
    """Reads an interval.

    Args:
        every: A whole number of steps; a text with a unit, "90s", "10m" or "1.5h"; a `timedelta`;
            or None for never.

    Raises:
        ValueError: It is none of these, or not above zero.
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
