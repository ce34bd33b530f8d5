"""Was the launcher told to stop?  Signals, remembered until somebody looks.

Ctrl-C, SIGTERM, SIGHUP, and SIGUSR1, which Slurm sends where `--signal=USR1@60` asks for it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class StopRequest:
    """What signals have asked for so far; nothing where none came."""

    def __init__(self) -> None:
        self._numbers: list[int] = []

    def add(self, number: int, frame: FrameType | None = None) -> None:
        """Takes a signal; has the form of a signal handler."""
        self._numbers.append(number)

    @property
    def number(self) -> int:
        """The first signal; 0 where none came."""
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
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup, which means it
            before[number] = signal.signal(number, request.add)
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
