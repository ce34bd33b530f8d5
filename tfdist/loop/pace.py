"""How many steps are run at a time, where nobody fixed it?

As many as a fifth of a second takes, or half a second where workers have to agree on what comes
next, which takes them some milliseconds.
"""

from __future__ import annotations

import dataclasses
import time

TARGET_SECS = 0.2
SHARED_TARGET_SECS = 0.5


@dataclasses.dataclass
class Pace:
    """Chooses how many steps to run at a time: about `target_secs` worth of them.

    Attributes:
        target_secs: How long one call of the loop should take, so that the progress bar,
            checkpoints and signals stay timely.
        most: Upper bound, in steps.
        steps: The present choice.
    """

    target_secs: float = TARGET_SECS
    most: int = 10_000
    steps: int = 1
    _calls: int = 0

    def learn(self, steps: int, secs: float) -> None:
        """Takes note that `steps` steps took `secs` seconds."""
        self._calls += 1
        if self._calls == 1 or steps < 1:
            self.steps = 8  # the first call traced: its time says nothing
            return
        # No more than eightfold at once: the first steps after a trace are slow ones.
        wanted = steps * self.target_secs / max(secs, 1e-6)
        self.steps = int(min(max(wanted, 1), 8 * self.steps, self.most))


class Stopwatch:
    """Times a `with` block by a clock that never goes back."""

    secs = 0.0

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.secs = time.perf_counter() - self._start
