"""What is an engine?  A module that places workers somewhere; everything else is the same for all.

On every engine, attempt.py takes an attempt of a job through four steps:

1. place: the engine's `place` asks for a place for each worker, and returns a Gang at once;
2. exchange addresses: when no place is missing, the Gang's `start` starts the workers, which meet
   in the roll call;
3. wait for the first failure: the Gang reports the end of each worker;
4. end the gang: its `end` leaves no process behind.

Restarts, resuming, time limits and reports do not depend on the engine.
"""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable
from typing import Any, Protocol, cast

from tfdist.launch.job import Job


class NoRoom(OSError):
    """The system of a host starts no further worker.

    Args:
        num_started: How many it has started.
        reason: Why not one more.
    """

    def __init__(self, num_started: int, reason: object) -> None:
        super().__init__(f"a worker cannot be started, after {num_started} others: {reason}")
        self.num_started = num_started


OnEnd = Callable[[int, int], None]  # takes a rank and an exit code, negative for a signal


class EnvironOf(Protocol):
    """Makes the environment variables of a worker, once its engine knows where it is."""

    def __call__(
        self, rank: int, *, local_rank: int, local_size: int, host: str, cores: int
    ) -> dict[str, str]: ...


class Gang(Protocol):
    """The workers of one attempt."""

    interface: str  # the address of this host at which the workers can reach the roll call

    def absent(self) -> list[int]:
        """Returns the ranks for which there is no place yet."""

    def problem(self) -> str:
        """Says why a place will never come; "" if all may still come."""

    def is_queued(self) -> bool:
        """Tells whether the whole job waits in a scheduler's queue."""

    def start(self, *, environ_of: EnvironOf, run_dir: str, on_end: OnEnd) -> None:
        """Starts the worker at each place; each runs child.py with the job's command.

        Args:
            environ_of: Makes a worker's environment.
            run_dir: Private folder of the attempt, where the records of the workers appear.
            on_end: Called, in any thread, when a worker has ended.
        """

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the workers that still run."""

    def ask_to_leave(self) -> None:
        """Asks the workers to save and leave, as soon as they can; contract.py says how."""

    def end(self, *, grace_secs: float, is_urgent: Callable[[], bool]) -> None:
        """Ends whatever still runs: SIGTERM, the grace period, SIGKILL; then shows all output."""


class Engine(Protocol):
    """The module of an engine.

    One that can say for how many workers it has places has a function `open_places` as well: it
    takes the job and returns a context manager, whose value is a function that counts them, all in
    all or for each host, or None where there are always enough. See places.py.
    """

    def place(self, job: Job, *, is_restart: bool) -> Gang:
        """Asks for a place for each worker.

        Args:
            job: The requested job.
            is_restart: Whether to append to the log files of an earlier attempt.

        Raises:
            ImportError: A package is missing.
            RuntimeError: A program is missing, or the engine cannot be used from here.
        """
        ...


def load_engine(name: str) -> Engine:
    """Imports an engine's module."""
    return cast(Engine, importlib.import_module(f"tfdist.launch.engines.{name}"))


def import_package(name: str, *, engine: str, extra: str) -> Any:
    """Imports a package.

    Raises:
        ImportError: It is not installed; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != name.partition(".")[0]:
            raise
        raise ImportError(
            f"engine={engine!r} needs the package {name!r}, which is not installed. Install it with"
            f" the extra {extra!r}: pip install 'tfdist[{extra}]'.",
            name=name,
        ) from error
