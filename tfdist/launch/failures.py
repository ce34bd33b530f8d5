"""Which worker failed first, and how is it reported?

A worker whose peer has died often fails itself, seconds later, in a collective. So each worker
records its exception at the moment when it escapes (child.py), and the earliest one counts.
"""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Iterable, Sequence

from tfdist.cluster.contract import PEER_LOST, PREEMPTED, failure_path

# The end of a killed process is seen only after the system has cleared it away, and its peers may
# notice earlier. An abort does not count as killed: TensorFlow aborts when a peer is lost.
_CLEARING_SECS = 1.0
# What is recorded for a worker on another host whose agent has gone, and nobody knows why.
HOST_LOST = "RuntimeError: the connection to its host was lost: the engine or the host has ended it"


@dataclasses.dataclass(frozen=True)
class Failure:
    """How one worker failed."""

    rank: int
    at: float  # seconds, of the monotonic clock that all processes of a host share
    exit_code: int  # negative for the number of the signal that killed it
    cause: str  # "exit code 3", "killed by SIGKILL", ...
    traceback: str = ""  # as Python prints it; "" where no exception escaped
    has_saved: bool = False  # whether the run was saved before the worker left
    lost: int | None = None  # the worker for which it waited in vain


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How one attempt of a job ended."""

    failures: tuple[Failure, ...] = ()  # in the order in which they happened
    problem: str = ""  # what went wrong, if it was not the failure of a worker
    exit_code: int = 0  # for the launcher
    was_started: bool = False  # whether all workers had joined the roll call
    any_finished: bool = False  # whether a worker had succeeded
    was_stopped: bool = False  # by a signal to the launcher
    was_asked: bool = False  # to leave, since the number of workers was to change, and has left
    absent: tuple[int, ...] = ()  # workers that had no place, or did not join the roll call
    size: int = 0  # number of its workers
    run_dir: str = ""  # private folder of the attempt

    @property
    def is_success(self) -> bool:
        """Whether every worker succeeded."""
        return not self.failures and not self.problem

    @property
    def lost_host(self) -> bool:
        """Whether the first failure is that of a whole host, as far as the launcher can see."""
        return bool(self.failures) and self.failures[0].traceback == HOST_LOST

    @property
    def was_killed(self) -> bool:
        """Whether the first failure is a death by a signal: so an engine ends what it takes."""
        return bool(self.failures) and self.failures[0].exit_code < 0

    @property
    def was_preempted(self) -> bool:
        """Whether the workers were told to leave, and have saved before leaving."""
        return bool(self.failures) and self.failures[0].exit_code == PREEMPTED


def read_failure(run_dir: str, rank: int) -> Failure | None:
    """Reads the failure that a worker has recorded; None if no exception has escaped.

    What is no such record, as a program may write in its worker's folder, is none: the launcher
    then judges by the end of the process.
    """
    try:
        with open(failure_path(run_dir, rank), encoding="utf-8") as file:
            record = json.load(file)
        code = int(record["exit_code"])
        lost = record.get("lost")
        return Failure(
            rank, float(record["at"]), code, f"exit code {code}", str(record["traceback"]),
            record["has_saved"] is True, lost if isinstance(lost, int) else None,
        )  # fmt: skip
    except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


def find_failure(rank: int, *, at: float, exit_code: int) -> Failure:
    """Judges the end of a process that has recorded no failure.

    Args:
        rank: The worker.
        at: When its end was seen, in seconds of the monotonic clock.
        exit_code: Negative for the number of the signal that killed it.
    """
    if exit_code < 0 and exit_code != -signal.SIGABRT:
        at -= _CLEARING_SECS
    return Failure(rank, at, exit_code, describe_exit(exit_code))


def describe_exit(exit_code: int) -> str:
    """Names an exit code as Python's subprocess gives it: negative for a signal."""
    if exit_code >= 0:
        return f"exit code {exit_code}"
    try:
        name = signal.Signals(-exit_code).name
    except ValueError:
        name = f"signal {-exit_code}"
    hint = " (the system may have run out of memory)" if name == "SIGKILL" else ""
    return f"killed by {name}{hint}"


def shell_exit_code(exit_code: int) -> int:
    """The exit code with which a shell would report this one: 128 + n for signal n."""
    return exit_code if exit_code >= 0 else 128 - exit_code


def blame_deserters(
    failures: Sequence[Failure], ended_well: Iterable[tuple[int, float]]
) -> tuple[Failure, ...]:
    """Names the worker that left early, if all others failed because they lost a peer.

    Args:
        failures: In the order in which they happened.
        ended_well: Rank of each worker with exit code 0, and when that was.
    """
    if not failures or failures[0].exit_code != PEER_LOST:
        return tuple(failures)
    cause = "it ended with exit code 0 while the others still needed it"
    ends = dict(ended_well)
    lost = [failure.lost for failure in failures if failure.lost in ends]
    # Without a word of it: the end of a process may be seen a moment after its peers saw it.
    limit = failures[0].at + _CLEARING_SECS
    early = lost[:1] or sorted((r for r, at in ends.items() if at < limit), key=ends.__getitem__)
    return (*(Failure(rank, ends[rank], PEER_LOST, cause) for rank in early[:1]), *failures)


def order(failures: Iterable[Failure]) -> tuple[Failure, ...]:
    """Puts failures in the order in which they happened; the loss of a peer is never the first."""

    def key(failure: Failure) -> tuple[bool, float, int]:
        return failure.exit_code == PEER_LOST, failure.at, failure.rank

    return tuple(sorted(failures, key=key))


def headline(outcome: Outcome) -> str:
    """Says in one line why an attempt ended."""
    if outcome.is_success:
        return "all workers ended well"
    if outcome.was_preempted:
        why = outcome.problem or "a worker was told to leave"
        if outcome.was_asked:
            return f"the number of workers changes: {why}; the run is saved"
        if any(failure.has_saved for failure in outcome.failures):
            return (
                f"preempted: {why}; the run is saved, the workers have left with exit code"
                f" {PREEMPTED}, and the same command goes on"
            )
        return (
            f"preempted: {why}; the workers have left with exit code {PREEMPTED}, which asks for"
            " the same command again; whether they have saved, they did not say"
        )
    if outcome.problem:
        return outcome.problem
    first = outcome.failures[0]
    last_line = _last_line(first)
    if first.exit_code == PEER_LOST and first.lost not in (None, first.rank):
        return f"worker {first.lost} was lost to worker {first.rank}: {last_line}"
    return f"worker {first.rank} failed first: {first.cause}" + (
        f": {last_line}" if last_line else ""
    )


def _describe_later(failure: Failure, first: Failure) -> str:
    told, last_line = f"worker {failure.rank} failed after it: {failure.cause}", _last_line(failure)
    if failure is first or not last_line:
        return told
    return f"{told}: {'the same' if last_line == _last_line(first) else last_line}"


def _last_line(failure: Failure) -> str:
    return failure.traceback.strip().rpartition("\n")[2]


def report(outcome: Outcome, *, earlier: Sequence[Outcome] = ()) -> str:
    """Reports how a job went, including the root cause of each restart."""
    lines = [headline(outcome)]
    later = [failure for failure in outcome.failures if failure.exit_code != PREEMPTED]
    if later and not outcome.problem and not outcome.was_preempted:
        first, *later = later
        whole = first.traceback.rstrip().splitlines()
        lines += [f"  {line}" for line in whole if len(whole) > 1]  # else the headline has it
    lines += [_describe_later(failure, outcome.failures[0]) for failure in later]
    lines += [
        f"before restart {number}, {headline(attempt)}"
        for number, attempt in enumerate(earlier, start=1)
    ]
    return "\n".join(lines)
