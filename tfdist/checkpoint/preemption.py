"""Was this process told to leave?  SIGTERM and SIGUSR1, kept until all workers can save together.

Spot machines, Kubernetes and Slurm send SIGTERM some seconds before they take a machine away, and
`sbatch --signal=USR1@60` sends SIGUSR1 a minute before the time limit. A Python signal handler only
runs when the main thread returns from TensorFlow. So a separate thread gets the signals at once,
and ends the process at a second SIGTERM, whatever the main thread is doing. A forked process, such
as one of a pool that reads data, inherits handlers and descriptors: it puts them back at once.

Synopsis:

    >>> with notices() as notice:
    ...     notice.number
    0
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import threading
import time
from collections.abc import Iterator

# SIGUSR1 is not there on Windows.
_NUMBERS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]
_LAST = b"\0"  # tells the thread to end; no signal has the number 0
_JOIN_SECS = 5.0
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
    ignored signal, and for SIGUSR1 if the program has its own handler. A process that is forked
    within the block gets its signals as if there were no block.

    Args:
        is_wanted: False for a block in which nothing changes.
    """
    notice = Notice()
    watched = _watched() if is_wanted else []
    if not watched:
        yield notice
        return
    watch = _Watch(notice, watched)
    _open_watches().append(watch)
    try:
        yield notice
    finally:
        if watch in _open_watches():  # else a forked process leaves the block, too
            _open_watches().remove(watch)
            watch.close()


class _Watch:
    """The handler of the watched signals, with a thread that gets them at once.

    Args:
        notice: Takes them.
        numbers: Of the signals.
    """

    def __init__(self, notice: Notice, numbers: list[int]) -> None:
        self._notice, self._numbers = notice, numbers
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._write_end, False)
        self._fd_before = signal.set_wakeup_fd(self._write_end, warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="tfdist-signals", daemon=True)
        self._thread.start()
        self._before = {number: signal.signal(number, self) for number in numbers}

    def __call__(self, number: int, frame: object) -> None:
        """Does nothing; but without a Python handler nothing is written to the pipe."""

    def close(self) -> None:
        """Puts back what was there before, and ends the thread."""
        self._put_back()
        with contextlib.suppress(BlockingIOError):  # so full that the thread reads, and sees an end
            os.write(self._write_end, _LAST)
        os.close(self._write_end)
        self._thread.join(_JOIN_SECS)
        if not self._thread.is_alive():
            os.close(self._read_end)

    def forget(self) -> None:
        """Puts back what was there before, in a process that was forked: there is no thread."""
        self._put_back()
        os.close(self._write_end)
        os.close(self._read_end)

    def _put_back(self) -> None:
        for number, handler in self._before.items():
            if signal.getsignal(number) is self:  # the program may have set its own meanwhile
                signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before, warn_on_full_buffer=False)

    def _listen(self) -> None:
        while numbers := os.read(self._read_end, 64):
            for number in numbers:
                is_watched = number in self._numbers
                if is_watched and self._notice.take(number, now=time.monotonic()):
                    os._exit(128 + number)
            if self._fd_before != -1 and (others := numbers.replace(_LAST, b"")):
                with contextlib.suppress(OSError):  # nobody reads there any more
                    os.write(self._fd_before, others)
            if _LAST in numbers:
                return


@functools.cache
def _open_watches() -> list[_Watch]:
    """Returns the watches of this process, the newest last; a forked process leaves each of them.

    A list for the whole process, since what is done at a fork cannot be taken back.
    """
    watches: list[_Watch] = []
    masks: dict[int, set[int | signal.Signals]] = {}  # of the threads that are forking, by number

    def hold() -> None:
        # Until it has put them back, the new process would tell us of its signals.
        if watches:
            masks[threading.get_ident()] = signal.pthread_sigmask(signal.SIG_BLOCK, _NUMBERS)

    def let_come() -> None:
        mask = masks.pop(threading.get_ident(), None)
        if mask is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def begin() -> None:
        while watches:
            watches.pop().forget()
        let_come()

    if hasattr(os, "register_at_fork"):  # not on Windows
        os.register_at_fork(before=hold, after_in_parent=let_come, after_in_child=begin)
    return watches


def _watched() -> list[int]:
    if threading.current_thread() is not threading.main_thread():
        return []
    # None is a handler that was not set from Python, and could not be restored.
    untouchable = (signal.SIG_IGN, None)
    watched = [signal.SIGTERM] if signal.getsignal(signal.SIGTERM) not in untouchable else []
    watched += [user for user in _NUMBERS[1:] if signal.getsignal(user) == signal.SIG_DFL]
    return [int(number) for number in watched]
