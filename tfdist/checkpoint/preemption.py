"""Was this process told to leave?  SIGTERM and SIGUSR1, kept until all workers can save together.

Spot machines, Kubernetes and Slurm send SIGTERM some seconds before they take a machine away, and
`sbatch --signal=USR1@60` sends SIGUSR1 a minute before the time limit. A Python signal handler only
runs when the main thread returns from TensorFlow. So a separate thread gets the signals at once,
and ends the process at a second SIGTERM, whatever the main thread is doing.

Synopsis:

    >>> with notices() as notice:
    ...     notice.number
    0
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator

# One notice may arrive twice: from the system, and forwarded by the launcher.
_SAME_NOTICE_SECS = 1.0


class Notice:
    """What signals have asked for so far."""

    def __init__(self) -> None:
        self.number = 0  # of the signal that came first; 0 where none came
        self._terminated_at: float | None = None

    def take(self, number: int, *, now: float) -> bool:
        """Takes a signal; tells whether the process has to end at once.

        Args:
            number: Of the signal.
            now: Seconds, of a monotonic clock.
        """
        self.number = self.number or number
        if number != signal.SIGTERM:
            return False
        if self._terminated_at is None:
            self._terminated_at = now
        return now - self._terminated_at > _SAME_NOTICE_SECS


@contextlib.contextmanager
def notices(*, is_wanted: bool = True) -> Iterator[Notice]:
    """Records SIGTERM and SIGUSR1 within the block instead of letting them end this process.

    Outside the main thread, where Python allows no handlers, nothing changes. Nor does it for an
    ignored signal, and for SIGUSR1 if the program has its own handler.

    Args:
        is_wanted: False for a block in which nothing changes.
    """
    notice = Notice()
    watched = _watched() if is_wanted else []
    if not watched:
        yield notice
        return
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    before = signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    listener = threading.Thread(
        target=_listen, args=(notice, read_end, before, watched), name="tfdist-signals", daemon=True
    )
    listener.start()
    handlers = {number: signal.signal(number, _leave_it_to_the_listener) for number in watched}
    try:
        yield notice
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before, warn_on_full_buffer=False)
        os.close(write_end)
        listener.join()
        os.close(read_end)


def _watched() -> list[int]:
    if threading.current_thread() is not threading.main_thread():
        return []
    # None is a handler that was not set from Python, and could not be restored.
    untouchable = (signal.SIG_IGN, None)
    watched = [signal.SIGTERM] if signal.getsignal(signal.SIGTERM) not in untouchable else []
    user = getattr(signal, "SIGUSR1", None)  # not on Windows
    if user is not None and signal.getsignal(user) == signal.SIG_DFL:
        watched.append(user)
    return [int(number) for number in watched]


def _leave_it_to_the_listener(number: int, frame: object) -> None:
    """Does nothing; but without a Python handler nothing is written to the pipe."""


def _listen(notice: Notice, read_end: int, before: int, watched: list[int]) -> None:
    while numbers := os.read(read_end, 64):
        for number in numbers:
            if number in watched and notice.take(number, now=time.monotonic()):
                os._exit(128 + number)
        if before != -1:
            with contextlib.suppress(OSError):  # nobody reads there any more
                os.write(before, numbers)
