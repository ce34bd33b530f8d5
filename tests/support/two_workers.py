"""What do two workers tell each other?  In this process, in place of two processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from tfdist.communication.workers import Workers

_LIMIT_SECS = 20.0


class OneOfTwo:
    """One of two workers, with the exchanges of `Workers` that compare something."""

    has_others = True

    def __init__(self, rank: int, meeting: threading.Barrier, said: list[Any]) -> None:
        self.rank, self._meeting, self._said = rank, meeting, said

    def gather(self, *values: int, what: str = "an agreement") -> np.ndarray:
        return np.array(self._both(values), np.int64)

    def from_chief(self, payload: bytes) -> bytes:
        return self._both(payload)[0]

    def payloads(self, own: bytes) -> list[bytes]:
        return self._both(own)

    def _both(self, own: Any) -> list[Any]:
        self._said[self.rank] = own
        self._meeting.wait()
        found = list(self._said)
        self._meeting.wait()
        return found


def refused(first: Callable[[OneOfTwo], None], second: Callable[[OneOfTwo], None]) -> list[str]:
    """Lets two workers do something together; returns what each was refused with, or ""."""
    meeting, said, raised = threading.Barrier(2, timeout=_LIMIT_SECS), [None, None], ["", ""]

    def work(rank: int, do: Callable[[OneOfTwo], None]) -> None:
        try:
            do(OneOfTwo(rank, meeting, said))
        except ValueError as error:
            raised[rank] = str(error)

    workers = [
        threading.Thread(target=work, args=(rank, do)) for rank, do in enumerate((first, second))
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return raised


class Apart(Workers):
    """What two workers tell each other, where the other one holds something else in a place."""

    has_others = True

    def __init__(self, strategy: Any, index: int | None = None) -> None:
        super().__init__(strategy)
        self.index = index

    def gather(self, *values: int, what: str = "") -> np.ndarray:
        rows = np.array([values, values], np.int64)
        if self.index is not None:
            rows[1, self.index] += 1
        return rows
