"""What is an engine?  A module that places workers somewhere; everything else is the same on all.

It has INTERFACE, the address at which its workers reach the roll call in this process, and the
function `place`.
"""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from typing import Protocol, cast

from tfdist.launch.job import Job

OnEnd = Callable[[int, int], None]  # takes a rank and an exit code, negative for a signal


class EnvironOf(Protocol):
    """Makes the environment of one worker, once its engine knows where it is."""

    def __call__(
        self, rank: int, *, local_rank: int, local_size: int, host: str
    ) -> dict[str, str]: ...


class Gang(Protocol):
    """The workers of one attempt."""

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the workers that still run."""

    def end(self, *, grace_secs: float, is_urgent: Callable[[], bool]) -> None:
        """Ends whatever still runs: asks, waits so many seconds, makes; shows all output."""


class Engine(Protocol):
    """The module of an engine."""

    INTERFACE: str

    def place(self, job: Job, *, environ_of: EnvironOf, is_restart: bool, on_end: OnEnd) -> Gang:
        """Starts one worker for each rank; each runs child.py with the job's command.

        Args:
            job: What is asked for.
            environ_of: Makes a worker's environment.
            is_restart: Whether the log files of an earlier attempt go on.
            on_end: To be called, in any thread, when a worker has ended.
        """
        ...


def load_engine(name: str) -> Engine:
    """Imports an engine's module."""
    return cast(Engine, importlib.import_module(f"tfdist.launch.{name}"))
