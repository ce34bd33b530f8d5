"""How often is a job attempted?  Attempts, restarts of all workers together, and their causes."""

from __future__ import annotations

import os
import signal
import time

from tfdist.launch.attempt import run_attempt
from tfdist.launch.failures import Outcome, headline
from tfdist.launch.job import Job, foreign_variables
from tfdist.launch.output import check_logs, say
from tfdist.launch.stop import StopRequest

# A port that is free when a worker chooses it may be taken when it is bound: by cluster/peers.py,
# with the second of these messages, or later by TensorFlow, with the first.
PORT_ATTEMPTS = 3
_PORT_TAKEN = ("Could not start gRPC server", "cannot listen at its address")
# Open files of the launcher: its own, and those of each worker (streams, log, roll call, agent).
_OWN_FILES, _LOCAL_FILES, _REMOTE_FILES = 32, 4, 7
LONGEST_BACKOFF_SECS = 60.0


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
      and no worker has succeeded: then none of them has got past that point.

    Args:
        job: The requested job.
        run_dir: Private folder; each attempt gets its own folder in it.
        stop: Whether the launcher was told to stop.

    Returns:
        The outcomes of all attempts that count; the last one is the job's.

    Raises:
        ValueError: There cannot be so many workers, or their logs cannot be written.
    """
    stop = stop or StopRequest()
    _check_room(job)
    check_logs(job.log_dir, workers=job.workers)
    deadline = time.monotonic() + (job.timeout_secs or float("inf"))
    _tell_foreign_variables(job)
    outcomes: list[Outcome] = []
    port_attempts = 1
    attempt = 0
    while True:
        attempt_dir = os.path.join(run_dir, f"attempt_{attempt}")
        os.mkdir(attempt_dir, 0o700)
        outcome = run_attempt(
            job,
            run_dir=attempt_dir,
            restart_count=len(outcomes),
            is_restart=attempt > 0,
            deadline=deadline,
            stop=stop,
        )
        attempt += 1
        if _is_port_taken(outcome) and port_attempts < PORT_ATTEMPTS:
            port_attempts += 1
            say(f"{headline(outcome)}; a worker's port was taken, trying others")
            continue
        outcomes.append(outcome)
        if not _may_restart(job, outcomes) or time.monotonic() > deadline:
            return tuple(outcomes)
        _pause(job, outcomes, stop)
        if stop.number:
            name = signal.Signals(stop.number).name
            problem = f"stopped by {name} before a restart"
            code = 128 + stop.number
            return (*outcomes, Outcome(problem=problem, exit_code=code, was_stopped=True))


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
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
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


def _may_restart(job: Job, outcomes: list[Outcome]) -> bool:
    last = outcomes[-1]
    if last.is_success or last.was_stopped or not last.was_started:
        return False
    return len(outcomes) <= job.max_restarts


def _pause(job: Job, outcomes: list[Outcome], stop: StopRequest) -> None:
    """Waits before a restart, longer each time."""
    number = len(outcomes)
    secs = min(job.backoff_secs * 2 ** (number - 1), LONGEST_BACKOFF_SECS)
    say(f"{headline(outcomes[-1])}; restart {number} of {job.max_restarts} in {secs:g} s")
    until = time.monotonic() + secs
    while not stop.number and (left := until - time.monotonic()) > 0:
        time.sleep(min(left, 0.1))


def _tell_foreign_variables(job: Job) -> None:
    # In a script for sbatch Slurm sets variables that the workers get again from srun.
    own = "SLURM_" if job.engine == "slurm" else "TFDIST_"
    if names := [name for name in foreign_variables() if not name.startswith(own)]:
        say(f"the workers get ranks of their own; not passed on to them: {', '.join(names)}")
