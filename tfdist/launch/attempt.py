"""What is one attempt of a job? Place the workers, call the roll, await a failure, end all."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import signal
import time
from collections.abc import Callable

from tfdist.cluster.roll_call import RollCall
from tfdist.cluster.wording import name_workers
from tfdist.launch.engine import Gang, NoRoom, load_engine
from tfdist.launch.failures import Outcome
from tfdist.launch.job import Job, make_environ
from tfdist.launch.stop import StopRequest
from tfdist.launch.watch import TIMEOUT_EXIT_CODE, Ended, Event, RollCalled, StallWatch, Watch

SETTLE_SECS = 0.3  # after a failure: an earlier one may be reported late
_TICK_SECS = 0.1
_POLL_SECS = 0.02


def run_attempt(
    job: Job,
    *,
    run_dir: str,
    restart_count: int,
    is_restart: bool,
    deadline: float,
    stop: StopRequest,
    change: Callable[[], str] = lambda: "",
) -> Outcome:
    """Runs the job's workers once.

    Args:
        job: The requested job.
        run_dir: Private folder of this attempt.
        restart_count: Restarts so far.
        is_restart: Whether to append to the log files of an earlier attempt.
        deadline: When the job's time is up, on the clock of time.monotonic.
        stop: Whether the launcher was told to stop.
        change: Says why the workers should save and leave, for another number of them to begin; ""
            if they should not.
    """
    gang = load_engine(job.engine).place(job, is_restart=is_restart)
    try:
        if missed := _await_places(gang, stop, job=job, deadline=deadline):
            return missed
        return _run_workers(
            job, gang, stop, run_dir=run_dir, restart_count=restart_count, deadline=deadline,
            change=change,
        )
    except NoRoom as error:
        if not job.is_elastic:
            raise
        absent = tuple(range(error.num_started, job.workers))
        return Outcome(problem=str(error), exit_code=1, absent=absent, size=job.workers)
    finally:
        gang.end(grace_secs=job.grace_secs, is_urgent=lambda: stop.is_urgent)


def _await_places(gang: Gang, stop: StopRequest, *, job: Job, deadline: float) -> Outcome | None:
    """Waits until there is a place for each worker; returns the outcome if that failed."""
    began = time.monotonic()
    while absent := gang.absent():
        if stop.number:
            name = signal.Signals(stop.number).name
            code = 128 + stop.number
            return Outcome(problem=f"stopped by {name}", exit_code=code, was_stopped=True)
        if problem := gang.problem():
            told = f"engine {job.engine}: {problem}"
            return Outcome(problem=told, exit_code=1, absent=tuple(absent), size=job.workers)
        now = time.monotonic()
        is_first = len(absent) == job.workers
        # A scheduler may queue the whole job for hours, but then starts all of it at once.
        began = now if is_first and gang.is_queued() else began
        if now > began + job.roll_call_secs or now > deadline:
            secs = f"roll_call_secs={job.roll_call_secs!r}"
            if now > deadline:
                secs = f"timeout_secs={job.timeout_secs!r}"
            problem = (
                f"engine {job.engine} has not made a place for {name_workers(absent)} within"
                f" {secs}; look whether it has room for {job.workers} workers, and whether they"
                f" can reach this host at {gang.interface}, or allow more time"
            )
            return Outcome(
                problem=problem, exit_code=TIMEOUT_EXIT_CODE, absent=tuple(absent),
                size=job.workers,
            )
        time.sleep(_POLL_SECS)
    return None


def _run_workers(
    job: Job,
    gang: Gang,
    stop: StopRequest,
    *,
    run_dir: str,
    restart_count: int,
    deadline: float,
    change: Callable[[], str],
) -> Outcome:
    """Starts the workers at their places, and waits for their end."""
    events: queue.SimpleQueue[Event] = queue.SimpleQueue()
    secret = os.urandom(32).hex()
    with RollCall(
        size=job.workers,
        secret=secret.encode(),
        host=gang.interface,
        timeout_secs=job.roll_call_secs,
        on_end=lambda: events.put(RollCalled()),
    ) as roll_call:
        watch = Watch(job, roll_call, run_dir)
        gang.start(
            environ_of=functools.partial(
                make_environ,
                job,
                rendezvous=roll_call.address,
                secret=secret,
                run_dir=run_dir,
                restart_count=restart_count,
            ),
            run_dir=run_dir,
            on_end=lambda rank, code: events.put(Ended(rank, code, time.monotonic())),
        )
        _wait(watch, gang, events, stop, job=job, deadline=deadline, change=change)
        return watch.outcome()


def _wait(
    watch: Watch,
    gang: Gang,
    events: queue.SimpleQueue[Event],
    stop: StopRequest,
    *,
    job: Job,
    deadline: float,
    change: Callable[[], str],
) -> None:
    """Waits until all workers have succeeded, or something has gone wrong."""
    stalls = StallWatch(watch.run_dir, workers=job.workers, stall_secs=job.stall_secs)
    while not watch.is_over:
        _take_next(watch, events, timeout_secs=_TICK_SECS)
        if stop.number:
            watch.take_stop(stop.number)
        elif time.monotonic() > deadline and not watch.is_over:
            gang.signal(signal.SIGUSR2)  # child.py: show the stacks of all threads
            watch.take_timeout(job.timeout_secs)
        elif (late := stalls.stalled(now=time.monotonic())) and not watch.is_over:
            gang.signal(signal.SIGUSR2)
            watch.take_stall(late, job.stall_secs)
        elif not watch.asked and (why := change()):
            watch.asked = why
            gang.ask_to_leave()
    if watch.was_stopped:
        _let_leave(watch, gang, events, stop, secs=job.save_secs)
        return
    settled = time.monotonic() + SETTLE_SECS
    while watch.has_failed and watch.running():
        if (left := settled - time.monotonic()) <= 0:
            break
        _take_next(watch, events, timeout_secs=left)


def _let_leave(
    watch: Watch, gang: Gang, events: queue.SimpleQueue[Event], stop: StopRequest, *, secs: float
) -> None:
    """Tells the workers to leave, as the launcher was told, and gives them time to save."""
    gang.signal(signal.SIGTERM)
    gang.signal(signal.SIGCONT)  # a stopped process would not get the other signal
    deadline = time.monotonic() + secs
    while watch.running() and not stop.is_urgent and time.monotonic() < deadline:
        _take_next(watch, events, timeout_secs=_TICK_SECS)


def _take_next(watch: Watch, events: queue.SimpleQueue[Event], *, timeout_secs: float) -> None:
    with contextlib.suppress(queue.Empty):
        watch.take(events.get(timeout=timeout_secs))
    while not events.empty():
        watch.take(events.get())
    watch.look()
