"""How far has a worker come?  A number in the launcher's folder, written between any two steps.

Synopsis (without tfdist's launcher there is no folder, and nothing is written):

    >>> import tempfile
    >>> folder = tempfile.mkdtemp()
    >>> with Progress({"TFDIST_RUN_DIR": folder, "TFDIST_RANK": "0"}) as progress:
    ...     progress.tick()
    ...     read_progress(folder, 0)
    2
    >>> read_progress(folder, 0)
    0

The workers of a job make their steps together, so the one with the lowest number holds up the rest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping
from typing import ParamSpec, TypeVar

from tfdist.cluster import contract

_LOG = logging.getLogger("tfdist")
_LONGEST = 64  # bytes of a count
_P = ParamSpec("_P")
_T = TypeVar("_T")


class Progress:
    """Counts what this worker does within `with` blocks; the launcher sees the count."""

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._file: int | None = None
        self._depth = 0
        self._count = 0
        self._has_told = False

    def __enter__(self) -> Progress:
        self._depth += 1
        folder = self._environ.get(contract.RUN_DIR)
        if self._depth == 1 and folder:
            rank = int(self._environ.get(contract.RANK, 0))
            try:
                self._file = os.open(_path(folder, rank), os.O_WRONLY | os.O_CREAT, 0o600)
            except OSError as error:
                self._tell(error)
        self.tick()
        return self

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if self._depth == 0 and self._file is not None:
            self._write(0)
            os.close(self._file)
            self._file = None

    def tick(self) -> None:
        """Counts that something was begun or done, at the cost of one short write."""
        self._count += 1
        if self._file is not None:
            self._write(self._count)

    def ticking(self, fn: Callable[_P, _T]) -> Callable[_P, _T]:
        """Returns a function that ticks before and after `fn`."""

        def ticked(*args: _P.args, **kwargs: _P.kwargs) -> _T:
            self.tick()
            value = fn(*args, **kwargs)
            self.tick()
            return value

        return ticked

    def _write(self, count: int) -> None:
        if self._file is None:
            return
        try:
            os.pwrite(self._file, b"%20d" % count, 0)  # one length: no old digits stay behind
        except OSError as error:  # a full disk must not end what is only shown on it
            self._tell(error)

    def _tell(self, error: OSError) -> None:
        if not self._has_told:
            self._has_told = True
            _LOG.warning(
                "The launcher cannot see how far this worker has come (%s), and --stall_secs finds "
                "nothing. Make room in TMPDIR.", error
            )


def read_progress(folder: str, rank: int) -> int:
    """Returns the count of a worker; 0 if it is in no block."""
    try:
        with open(_path(folder, rank), "rb") as file:
            return int(file.read(_LONGEST) or 0)
    except (FileNotFoundError, ValueError):
        return 0


def _path(folder: str, rank: int) -> str:
    return os.path.join(folder, f"progress_{rank}")
