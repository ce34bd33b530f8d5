"""What is known of the workers of an attempt?

Who runs, who has ended and how, whether all joined the roll call, and whether each makes steps.
"""

from __future__ import annotations

import dataclasses
import signal
import time

from tfdist.cluster import contract
from tfdist.cluster.progress import read_progress
from tfdist.cluster.roll_call import RollCall
from tfdist.cluster.wording import name_workers
from tfdist.launch import failures
from tfdist.launch.failures import Failure, Outcome
from tfdist.launch.job import Job

LAST_WORDS_SECS = 3.0  # from an exception's escape to the end of its process
TIMEOUT_EXIT_CODE = 124  # as the command `timeout` has it
_LOOK_SECS = 0.5


@dataclasses.dataclass(frozen=True)
class Ended:
    """A worker has ended."""

    rank: int
    exit_code: int
    at: float  # seconds, of the monotonic clock


@dataclasses.dataclass(frozen=True)
class RollCalled:
    """The roll call has ended, successfully or not."""


Event = Ended | RollCalled


class Watch:
    """What is known of the workers of one attempt while it runs."""

    def __init__(self, job: Job, roll_call: RollCall, run_dir: str) -> None:
        self._job = job
        self._roll_call = roll_call
        self.run_dir = run_dir
        self._exits: dict[int, Ended] = {}
        self._deserters: set[int] = set()  # ended with exit code 0 before they had joined
        self._escapes: dict[int, Failure] = {}  # exceptions that workers have recorded
        self.problem = ""
        self.problem_code = 1
        self.was_stopped = False
        self.asked = ""  # why the workers were asked to leave

    def take(self, event: Event) -> None:
        """Takes an event."""
        if isinstance(event, Ended):
            self._exits[event.rank] = event
            if event.exit_code == 0 and event.rank not in self._roll_call.present:
                self._deserters.add(event.rank)
        else:
            try:
                self._roll_call.result(timeout_secs=0)
            except RuntimeError as error:
                self.problem = self.problem or str(error)

    def take_stop(self, number: int) -> None:
        """Records that the launcher was told to stop, and the workers with it."""
        self.problem = f"stopped by {signal.Signals(number).name}"
        self.problem_code = 128 + number
        self.was_stopped = True

    def take_timeout(self, timeout_secs: float | None) -> None:
        """Records that the time of the job is up."""
        self.problem = (
            f"timeout_secs={timeout_secs!r} is over and {name_workers(self.running())} still ran"
            " (stacks in the output); allow more time if that was no hang"
        )
        self.problem_code = TIMEOUT_EXIT_CODE

    def take_stall(self, ranks: list[int], stall_secs: float | None) -> None:
        """Records that workers have made no step for too long."""
        self.problem = (
            f"no step for stall_secs={stall_secs!r}: {name_workers(ranks)} held up the others"
            " (stacks in the output); allow more time if that was no hang"
        )
        self.problem_code = TIMEOUT_EXIT_CODE

    def look(self) -> None:
        """Reads the failures that the workers have recorded."""
        for rank in range(self._job.workers):
            if rank not in self._escapes:
                found = failures.read_failure(self.run_dir, rank)
                self._escapes |= {rank: found} if found else {}

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to wait for."""
        if self.problem or self._deserters or len(self._exits) == self._job.workers:
            return True
        # After its exception has escaped, a process may still wait for its peers for ever.
        silent = [f.at for rank, f in self._escapes.items() if rank not in self._exits]
        left = [e.at for e in self._exits.values() if e.exit_code == contract.PREEMPTED]
        return any(e.exit_code not in (0, contract.PREEMPTED) for e in self._exits.values()) or any(
            time.monotonic() - at > LAST_WORDS_SECS for at in silent + left
        )

    @property
    def has_failed(self) -> bool:
        """Whether some worker has failed so far."""
        return bool(self.problem or self._failures())

    def _failures(self) -> tuple[Failure, ...]:
        found = dict(self._escapes)
        for rank, ended in self._exits.items():
            if rank in self._deserters:
                cause = "it ended with exit code 0 before it had joined the roll call"
                found[rank] = Failure(rank, ended.at, 1, cause)
            elif self.was_stopped and ended.exit_code == -signal.SIGTERM:
                continue  # as it was told
            elif ended.exit_code != 0 and rank not in found:
                found[rank] = failures.find_failure(rank, at=ended.at, exit_code=ended.exit_code)
        well = [(ended.rank, ended.at) for ended in self._exits.values() if ended.exit_code == 0]
        return failures.blame_deserters(failures.order(found.values()), well)

    def running(self) -> list[int]:
        """Ranks of the workers that have not ended."""
        return [rank for rank in range(self._job.workers) if rank not in self._exits]

    def _absent(self) -> tuple[int, ...]:
        """Ranks that were lost before the roll call was complete: those that ended, else all late.

        When one has ended, others may be on their way.
        """
        missing = set(range(self._job.workers)) - set(self._roll_call.present)
        return tuple(sorted(missing & self._exits.keys() or missing))

    def outcome(self) -> Outcome:
        """Returns the outcome of the attempt."""
        found = self._failures()
        was_preempted = bool(found) and found[0].exit_code == contract.PREEMPTED
        code = found[0].exit_code if found else 0
        if self.problem and not was_preempted:
            code = self.problem_code
        was_asked = bool(self.asked) and was_preempted and not self.problem
        return Outcome(
            failures=found,
            problem=self.asked if was_asked else self.problem,
            exit_code=failures.shell_exit_code(code),
            was_started=self._roll_call.is_complete,
            any_finished=any(e.exit_code == 0 for e in self._exits.values()),
            was_stopped=self.was_stopped,
            was_asked=was_asked,
            absent=() if self._roll_call.is_complete else self._absent(),
            size=self._job.workers,
            run_dir=self.run_dir,
        )


class StallWatch:
    """Detects stalled workers; the time is an argument, so that tests need not wait.

    Args:
        run_dir: Private folder of the attempt.
        workers: Number of workers.
        stall_secs: Longest time without a step, in seconds; None for no limit.
    """

    def __init__(self, run_dir: str, *, workers: int, stall_secs: float | None) -> None:
        self._run_dir, self._workers, self._stall_secs = run_dir, workers, stall_secs
        self._seen = dict.fromkeys(range(workers), (0, 0.0))  # the count, and since when
        self._looked_at = -_LOOK_SECS

    def stalled(self, *, now: float) -> list[int]:
        """Returns the workers that hold up the others: those with the least progress.

        Args:
            now: Seconds, of a monotonic clock.
        """
        if self._stall_secs is None or now < self._looked_at + _LOOK_SECS:
            return []
        self._looked_at = now
        for rank, (before, _) in self._seen.items():
            if (count := read_progress(self._run_dir, rank)) != before:
                self._seen[rank] = count, now
        # A worker outside of `fit` and the like (count 0) may take any time.
        late = {
            rank: count
            for rank, (count, since) in self._seen.items()
            if count and now - since > self._stall_secs
        }
        return [rank for rank, count in late.items() if count == min(late.values())]
