"""What do the commands that run a program share?  Their flags, and how a job is started by them."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import glob
import os
import tempfile
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfdist.cluster import quiet
from tfdist.launch import failures, output, private_network, supervise
from tfdist.launch.command_line import WRONG_FLAGS_EXIT_CODE, CommandLine
from tfdist.launch.job import ENGINES, Job, split_workers
from tfdist.launch.output import (
    fill_closed_descriptors,
    let_go_of_broken_streams,
    say,
)
from tfdist.launch.stop import stop_on_signals

_LAST_LINES = 5  # of a worker that has left no traceback


def add_module(line: CommandLine) -> None:
    """Adds the flag by which a program is a module, as in `python -m`."""
    flags.DEFINE_boolean(
        "module", False, "The program is the name of a module, as for `python -m`.",
        short_name="m", flag_values=line.flags,
    )


def parse(
    line: CommandLine, argv: Sequence[str] | None, *, program_name: str = "program"
) -> tuple[str, list[str]]:
    """Returns the program of a command and its arguments; ends with 2 where it is not there.

    Args:
        line: The command's.
        argv: The arguments; those of this process by default.
        program_name: What the command calls its program.
    """
    rest = line.parse(argv)
    if not rest:
        line.refuse(f"the {program_name} is missing; give the path of a Python program")
    path, *arguments = rest
    may_be_module = "module" in line.flags
    # Python runs a folder with a __main__.py too, where a module may be asked for.
    is_there = os.path.exists if may_be_module else os.path.isfile
    if not (may_be_module and line.flags.module) and not is_there(path):
        alike = difflib.get_close_matches(path, glob.glob("*.py"), n=1)
        hint = f"did you mean {alike[0]!r}?" if alike else "give the path of a Python program"
        line.refuse(f"{program_name}={path!r} is not there; {hint}")
    return path, arguments


def add_job(line: CommandLine, *, workers: int) -> None:
    """Adds the flags of a job.

    Args:
        line: Of a command that starts one.
        workers: Their number by default.
    """
    own = {"flag_values": line.flags}
    flags.DEFINE_string(
        "workers", str(workers), "Number of workers; or MIN:MAX, as 2:8, for a job that goes on "
        "from its last checkpoint with those that are left where some are lost, and with more again"
        " where they come.", **own,
    )
    flags.DEFINE_string(
        "discover_hosts", None, "Command that prints a line HOST:SLOTS for each host that a job of "
        "MIN:MAX workers can use, as Horovod's discovery script does; engines local and mpi.",
        **own,
    )
    flags.DEFINE_string("engine", "local", f"What starts them: {', '.join(ENGINES)}.", **own)
    flags.DEFINE_integer(
        "threads", None,
        "Computing threads of each worker; by default the cores of its host, shared among the "
        "workers there.", **own,
    )
    flags.DEFINE_integer(
        "max_restarts", 0, "How often all workers are restarted after one has failed.", **own
    )
    flags.DEFINE_string(
        "log_dir", None, "Folder for each worker's full output, worker_0.log and so on; by default "
        "none is kept.", **own,
    )
    flags.DEFINE_boolean(
        "private_network", False, "Whether to put launcher and workers into a network namespace of "
        "their own, so that nobody else reaches TensorFlow's ports, and the job reaches nothing "
        "outside; for the engine local on Linux, where the system allows it.", **own,
    )
    _add_times(own)


def _add_times(own: dict[str, Any]) -> None:
    flags.DEFINE_float(
        "roll_call_secs", 60.0, "Longest time until all workers are there, in seconds.", **own
    )
    flags.DEFINE_float(
        "wait_secs", 60.0, "How long a job of MIN:MAX workers waits for lost places before it goes "
        "on without them, in seconds.", **own,
    )
    flags.DEFINE_float(
        "timeout_secs", None, "Longest time for the whole job, in seconds; by default no limit.",
        **own,
    )
    flags.DEFINE_float(
        "stall_secs", None, "Longest time that a worker in tfdist.fit, evaluate or predict may take"
        " for a step, including the first with its tracing, in seconds; by default no limit.",
        **own,
    )
    flags.DEFINE_float(
        "grace_secs", 5.0, "Time between SIGTERM and SIGKILL for workers that are ended, in "
        "seconds.", **own,
    )
    flags.DEFINE_float(
        "save_secs", 25.0, "Time for the workers to save and leave when the launcher is told to "
        "stop, in seconds.", **own,
    )


def is_alone(line: CommandLine) -> bool:
    """Tells whether the flags of `add_job` ask for one worker here, which is this process."""
    return line.flags.workers == "1" and line.flags.engine == "local"


def run(line: CommandLine, command: Sequence[str], **more: Any) -> int:
    """Runs the job that flags ask for, tells how it failed if it did, and returns the exit code.

    Args:
        line: With the flags of `add_job`, parsed.
        command: What the workers run, as in `Job`.
        **more: Further fields of the job.
    """
    fill_closed_descriptors()
    names = {field.name for field in dataclasses.fields(Job)}
    given = {name: value for name, value in line.values().items() if name in names}
    try:
        fewest, most = split_workers(line.flags.workers)
        given |= {"workers": most, "fewest_workers": fewest, **more}
        job = Job(**{**given, "command": tuple(command)})
    except ValueError as error:
        line.refuse(str(error))
    if line.flags.private_network:
        _enter_private_network(line, job)
    try:
        with tempfile.TemporaryDirectory(prefix="tfdist-") as run_dir, stop_on_signals() as stop:
            *earlier, last = supervise.supervise(job, run_dir=run_dir, stop=stop)
    except (ValueError, RuntimeError, ImportError) as error:  # it could not even begin
        say(str(error))
        return WRONG_FLAGS_EXIT_CODE
    except OSError as error:  # the system itself: no process more, no room in TMPDIR
        say(f"the job cannot be run here: {error}")
        return WRONG_FLAGS_EXIT_CODE
    if not last.is_success or earlier:
        say(failures.report(last, earlier=earlier))
        _tell_logs(job, last)
    let_go_of_broken_streams()
    return last.exit_code


def _enter_private_network(line: CommandLine, job: Job) -> None:
    if job.engine != "local":
        line.refuse(
            f"--private_network is for workers on this machine, and engine {job.engine!r} starts"
            " them elsewhere; leave it out, and close their ports as SECURITY.md says"
        )
    try:
        private_network.enter()
    except ValueError as error:
        line.refuse(str(error))


def _tell_logs(job: Job, last: failures.Outcome) -> None:
    """Says where the output of the worker that failed first is; its last lines if nothing else."""
    failed = last.failures[:1]
    if not failed or last.was_preempted:
        return
    if job.log_dir is None:
        say("no log was kept; --log_dir=DIR keeps the whole output of each worker")
        return
    path = output.log_path(job.log_dir, failed[0].rank)
    if not failed[0].traceback:  # it was killed: what it said last may tell why
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
            said = [line for line in lines if not quiet.is_information(line.encode())]
            for line in said[-_LAST_LINES:]:
                say(f"  {line}")
    say(f"the whole output of worker {failed[0].rank}: {path}")
