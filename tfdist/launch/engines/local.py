"""How does engine "local" place workers?  As processes on this machine, children of this one."""

from __future__ import annotations

import signal
from collections.abc import Callable

from tfdist.cluster import contract
from tfdist.launch.engine import EnvironOf, NoRoom, OnEnd
from tfdist.launch.job import Job, count_cores, inherited_environ
from tfdist.launch.output import Pump
from tfdist.launch.processes import Processes


class LocalGang:
    """The workers of one attempt, all on this machine."""

    interface = "127.0.0.1"  # where the workers reach each other, too

    def __init__(self, job: Job, *, is_restart: bool) -> None:
        self._job = job
        self._pump = Pump(
            log_dir=job.log_dir, is_restart=is_restart, output=job.output, is_quiet=job.is_quiet
        )
        self._processes: Processes | None = None
        self._run_dir = ""

    def absent(self) -> list[int]:
        """Returns []: here there is always a place."""
        return []

    def problem(self) -> str:
        """Returns "": nothing can go wrong here."""
        return ""

    def is_queued(self) -> bool:
        """Never: it starts at once."""
        return False

    def start(self, *, environ_of: EnvironOf, run_dir: str, on_end: OnEnd) -> None:
        """Starts the workers.

        Raises:
            NoRoom: The system starts no further one.
        """
        self._run_dir = run_dir
        size, cores, rank = self._job.workers, count_cores(), 0
        try:
            self._processes = Processes(self._pump, on_end=on_end)
            for rank in range(size):
                environ = environ_of(
                    rank, local_rank=rank, local_size=size, host=self.interface, cores=cores
                )
                self._processes.add(self._job.command, {**inherited_environ(), **environ})
        except OSError as error:
            raise NoRoom(rank, error) from error
        self._pump.start()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the workers that still run, and to their child processes."""
        if self._processes:
            self._processes.signal(number)

    def ask_to_leave(self) -> None:
        """Asks the workers to save and leave."""
        contract.ask_to_leave(self._run_dir)

    def end(self, *, grace_secs: float, is_urgent: Callable[[], bool]) -> None:
        """Ends all workers that still run, and whatever they have left running."""
        if self._processes:
            self._processes.end(grace_secs=grace_secs, is_urgent=is_urgent)


def place(job: Job, *, is_restart: bool) -> LocalGang:
    """Returns the gang; its places are always there."""
    return LocalGang(job, is_restart=is_restart)
