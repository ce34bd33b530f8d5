"""Was the launcher told to stop?  Signals, recorded until they are checked.

These are Ctrl-C, SIGTERM, SIGHUP, and SIGUSR1, which Slurm sends for `--signal=USR1@60`.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """The signals so far."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def add(self, number: int, frame: FrameType | None = None) -> None:
        """Records a signal; has the signature of a signal handler."""
        self._numbers.append(number)

    @property
    def number(self) -> int:
        """The first signal; 0 if none came."""
        return self._numbers[0] if self._numbers else 0

    @property
    def is_urgent(self) -> bool:
        """Whether a second one came: end the workers without grace."""
        return len(self._numbers) > 1


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns signals to this process into a StopRequest within the block; main thread only."""
    request = StopRequest()
    before = {}
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1):
        if signal.getsignal(number) != signal.SIG_IGN:  # ignored on purpose, as under nohup
            before[number] = signal.signal(number, request.add)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
