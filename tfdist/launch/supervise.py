"""How often is a job attempted?  Attempts, restarts of all workers together, and their causes."""

from __future__ import annotations

import dataclasses
import functools
import os
import signal
import time

from tfdist.launch.attempt import run_attempt
from tfdist.launch.failures import Outcome, headline
from tfdist.launch.job import Job, foreign_variables
from tfdist.launch.output import check_logs, say
from tfdist.launch.places import Places, watch_places
from tfdist.launch.sizes import Attempt, Sizing, TooFew
from tfdist.launch.stop import StopRequest
from tfdist.launch.watch import TIMEOUT_EXIT_CODE

# A port that is free when a worker chooses it may be taken when it is bound: by cluster/peers.py,
# with the second of these messages, or later by TensorFlow, with the first.
PORT_ATTEMPTS = 3
_PORT_TAKEN = ("Could not start gRPC server", "cannot listen at its address")
# Open files of the launcher: its own, and those of each worker (streams, log, roll call, agent).
_OWN_FILES, _LOCAL_FILES, _REMOTE_FILES = 32, 4, 7
LONGEST_BACKOFF_SECS = 60.0
_TICK_SECS = 0.1


def supervise(
    job: Job,
    *,
    run_dir: str,
    stop: StopRequest | None = None,
) -> tuple[Outcome, ...]:
    """Runs a job until it has succeeded, or failed for good.

    After a failure of one worker all are restarted, in new processes and on new ports:

    - up to `job.max_restarts` times, if all had joined the roll call; a job that cannot even start
      would fail in the same way again;
    - in addition, at once and up to PORT_ATTEMPTS attempts in all, if a worker found its port taken
      and no worker has succeeded: then none of them has got past that point;
    - in addition, where an elastic job has fewer places, or more (sizes.py).

    Args:
        job: The requested job.
        run_dir: Private folder; each attempt gets its own folder in it.
        stop: Whether the launcher was told to stop.

    Returns:
        The outcomes of all attempts that count; the last one is the job's.

    Raises:
        ValueError: There cannot be so many workers, or their logs cannot be written.
        RuntimeError: Where the workers could be, cannot be seen.
    """
    stop = stop or StopRequest()
    _check_room(job)
    check_logs(job.log_dir, workers=job.workers)
    deadline = time.monotonic() + (job.timeout_secs or float("inf"))
    _tell_foreign_variables(job)
    with watch_places(job) as places:
        return _Supervision(job, run_dir, stop, places, deadline).run()


class _Supervision:
    """One job, over all its attempts."""

    def __init__(
        self, job: Job, run_dir: str, stop: StopRequest, places: Places, deadline: float
    ) -> None:
        self._job, self._run_dir, self._stop = job, run_dir, stop
        self._places, self._deadline = places, deadline
        fewest = job.workers if job.fewest_workers is None else job.fewest_workers
        self._sizing = Sizing(fewest=fewest, most=job.workers, wait_secs=job.wait_secs)
        self._outcomes: list[Outcome] = []
        self._attempts = 0  # those for another port among them
        self._num_restarts = 0  # those that count

    def run(self) -> tuple[Outcome, ...]:
        """Runs it; returns the outcomes of all attempts that count."""
        port_attempts = 1
        while True:
            size = self._await_size()
            if isinstance(size, Outcome):
                return (*self._outcomes, size)
            outcome = self._attempt(size)
            self._attempts += 1
            if _is_port_taken(outcome) and port_attempts < PORT_ATTEMPTS:
                port_attempts += 1
                say(f"{headline(outcome)}; a worker's port was taken, trying others")
                continue
            self._outcomes.append(outcome)
            if not self._goes_on(outcome) or time.monotonic() > self._deadline:
                return tuple(self._outcomes)

    def _attempt(self, size: int) -> Outcome:
        attempt_dir = os.path.join(self._run_dir, f"attempt_{self._attempts}")
        os.mkdir(attempt_dir, 0o700)
        job = self._job
        if job.is_elastic:
            job = dataclasses.replace(job, workers=size, hosts=tuple(self._places.hosts.items()))
        return run_attempt(
            job,
            run_dir=attempt_dir,
            restart_count=len(self._outcomes),
            is_restart=self._attempts > 0,
            deadline=self._deadline,
            stop=self._stop,
            change=functools.partial(self._change, size),
        )

    def _change(self, size: int) -> str:
        if not self._job.is_elastic:
            return ""
        return self._sizing.change(size, self._places.number(), now=time.monotonic())

    def _await_size(self) -> int | Outcome:
        """Returns how many workers the next attempt has, or why there is none."""
        has_told = False
        while True:
            if self._stop.number and (self._outcomes or has_told):
                return _stopped(self._stop, is_restart=bool(self._outcomes))
            try:
                size = self._sizing.next_size(self._places.number(), now=time.monotonic())
            except TooFew as error:
                return Outcome(problem=str(error), exit_code=TIMEOUT_EXIT_CODE)
            if size and self._job.is_elastic:
                say(f"{size} workers (of {self._job.fewest_workers} to {self._job.workers})")
            if size or time.monotonic() > self._deadline:
                return size or Outcome(
                    problem=f"timeout_secs={self._job.timeout_secs!r} is over, and no place was"
                    " there for the workers", exit_code=TIMEOUT_EXIT_CODE,
                )
            if not has_told:
                has_told = True
                say(
                    f"there are places for {self._places.number()} workers; up to"
                    f" wait_secs={self._job.wait_secs:g} for more"
                )
            time.sleep(_TICK_SECS)

    def _goes_on(self, last: Outcome) -> bool:
        """Whether there is another attempt; returns when it may begin."""
        if last.is_success or last.was_stopped:
            return False
        is_elastic = self._job.is_elastic
        if not last.was_started and not (is_elastic and last.absent):
            return False
        ended = Attempt(last.size, last.was_started, len(last.absent), last.was_asked)
        if is_elastic and (last.lost_host or (last.was_killed and self._places.is_late)):
            self._await_sight(last.size)
        number = self._places.new_number()
        is_counted = self._sizing.take(ended, number, now=time.monotonic())
        has_saved = any(failure.has_saved for failure in last.failures)
        if is_elastic and (has_saved or last.lost_host):  # a host that goes is no failure
            is_counted = False
        if is_counted and self._num_restarts >= self._job.max_restarts:
            return False
        self._num_restarts += is_counted
        secs = 0.0 if last.was_asked else self._backoff_secs(is_counted)
        what = f"restart {self._num_restarts} of {self._job.max_restarts}"
        say(f"{headline(last)}; {what if is_counted else 'all begin anew'} in {secs:g} s")
        until = time.monotonic() + secs
        while not self._stop.number and (left := until - time.monotonic()) > 0:
            time.sleep(min(left, _TICK_SECS))
        return True

    def _await_sight(self, size: int) -> None:
        """Waits until the places tell of the loss of a host, which an engine may see late."""
        until = time.monotonic() + self._job.wait_secs
        while self._places.number() == size and time.monotonic() < until and not self._stop.number:
            time.sleep(_TICK_SECS)

    def _backoff_secs(self, is_counted: bool) -> float:
        """How long to wait before a restart: longer each time."""
        number = self._num_restarts if is_counted else 1
        return min(self._job.backoff_secs * 2 ** (number - 1), LONGEST_BACKOFF_SECS)


def _stopped(stop: StopRequest, *, is_restart: bool) -> Outcome:
    before = "a restart" if is_restart else "there were places for the workers"
    problem = f"stopped by {signal.Signals(stop.number).name} before {before}"
    return Outcome(problem=problem, exit_code=128 + stop.number, was_stopped=True)


def _check_room(job: Job) -> None:
    """Refuses a job of more workers than this process can have files open for.

    Raises:
        ValueError: It is one.
    """
    needed = _OWN_FILES + job.workers * (_LOCAL_FILES if job.engine == "local" else _REMOTE_FILES)
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    has_more = most == resource.RLIM_INFINITY or needed <= most
    if limit != resource.RLIM_INFINITY and needed > limit and has_more:
        # What systems allow for by default is enough for 250 workers; more may be asked for.
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))
        return
    if limit != resource.RLIM_INFINITY and needed > limit:
        raise ValueError(
            f"workers={job.workers} need some {needed} open files in the launcher, and its limit is"
            f" {limit}; raise it (ulimit -n), or start fewer workers."
        )


def _is_port_taken(outcome: Outcome) -> bool:
    if outcome.is_success or outcome.problem or outcome.any_finished:
        return False
    last_line = outcome.failures[0].traceback.rstrip().rpartition("\n")[2]
    return any(text in last_line for text in _PORT_TAKEN)


def _tell_foreign_variables(job: Job) -> None:
    # In a script for sbatch Slurm sets variables that the workers get again from srun.
    own = "SLURM_" if job.engine == "slurm" else "TFDIST_"
    if names := [name for name in foreign_variables() if not name.startswith(own)]:
        say(f"the workers get ranks of their own; not passed on to them: {', '.join(names)}")
