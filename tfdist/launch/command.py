"""What do the commands that run a program share?  Their flags, and how a job is started by them."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from tfdist.launch import failures, private_network, supervise
from tfdist.launch.job import ENGINES, Job, split_workers
from tfdist.launch.output import (
    fill_closed_descriptors,
    let_go_of_broken_streams,
    say,
    write,
)
from tfdist.launch.stop import stop_on_signals


def make_parser(prog: str, usage: str, *, description: str | None) -> argparse.ArgumentParser:
    """Returns the parser of a command, as yet without flags.

    Args:
        prog: The command.
        usage: What follows it.
        description: What its help says, as it is laid out.
    """
    return argparse.ArgumentParser(
        prog=prog, usage=f"%(prog)s {usage}", description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )


def add_program(
    parser: argparse.ArgumentParser, name: str = "program", *, may_be_module: bool = False
) -> None:
    """Adds the program that a command runs, with all that follows it, as the last arguments.

    Args:
        parser: The command's.
        name: What the command calls its program.
        may_be_module: Whether `-m` asks for a module, as in `python -m`.
    """
    if may_be_module:
        parser.add_argument(
            "-m", action="store_true", help="the program is a module, as `python -m`"
        )
    parser.add_argument(name, help="Python program that each worker runs")
    parser.add_argument(
        "args", nargs=argparse.REMAINDER, metavar="ARGS", help="everything after it is its own"
    )
    parser.set_defaults(program_name=name)


def parse(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Returns the flags of a command that has a program; ends it with 2 where that is not there."""
    flags = parser.parse_args(argv)
    path = getattr(flags, flags.program_name)
    # Python runs a folder with a __main__.py too, where a module may be asked for.
    is_there = os.path.exists if "m" in flags else os.path.isfile
    if not getattr(flags, "m", False) and not is_there(path):
        parser.error(
            f"{flags.program_name}={path!r} is not there; give the path of a Python program"
        )
    return flags


def add_job(parser: argparse.ArgumentParser, *, workers: int) -> None:
    """Adds the flags of a job.

    Args:
        parser: Of a command that starts one.
        workers: Their number by default.
    """
    add = parser.add_argument
    add(
        "--workers", type=_read_workers, default=workers, metavar="N",
        help="number of workers (default: %(default)s); or MIN:MAX, as 2:8, for a job that goes on"
        " from its last checkpoint with those that are left where some are lost, and with more"
        " again where they come",
    )
    add(
        "--wait_secs", type=float, default=60.0, metavar="SECS",
        help="how long a job of MIN:MAX workers waits for lost places before it goes on without"
        " them, in seconds (default: 60)",
    )
    add(
        "--discover_hosts", metavar="COMMAND",
        help="command that prints a line HOST:SLOTS for each host that a job of MIN:MAX workers can"
        " use, as Horovod's discovery script does; engines local and mpi (default: none)",
    )
    add("--engine", default="local", help=f"what starts them, one of {ENGINES} (default: local)")
    add(
        "--threads",
        type=int,
        metavar="N",
        help="computing threads of each worker (default: cores of the host / workers on it)",
    )
    add(
        "--max_restarts",
        type=int,
        default=0,
        metavar="N",
        help="how often all workers are restarted after one has failed (default: 0)",
    )
    add(
        "--private_network", action="store_true",
        help="put launcher and workers into a network namespace of their own, so that nobody else"
        " reaches TensorFlow's ports, and the job reaches nothing outside; for the engine local"
        " on Linux, where the system allows it (default: off)",
    )
    add("--log_dir", metavar="DIR", help="folder for each worker's full output (default: none)")
    add(
        "--roll_call_secs",
        type=float,
        default=60.0,
        metavar="SECS",
        help="longest time until all workers are there, in seconds (default: 60)",
    )
    add(
        "--timeout_secs",
        type=float,
        metavar="SECS",
        help="longest time for the whole job, in seconds (default: no limit)",
    )
    add(
        "--stall_secs",
        type=float,
        metavar="SECS",
        help="longest time that a worker in tfdist.fit, evaluate or predict may take for a step,"
        " including the first with its tracing, in seconds (default: no limit)",
    )
    add(
        "--grace_secs",
        type=float,
        default=5.0,
        metavar="SECS",
        help="time between SIGTERM and SIGKILL for workers that are ended, in seconds (default: 5)",
    )
    add(
        "--save_secs",
        type=float,
        default=25.0,
        metavar="SECS",
        help="time for the workers to save and leave when the launcher is told to stop, in seconds"
        " (default: 25)",
    )


def _read_workers(text: str) -> int | str:
    """Returns a number, or MIN:MAX as it is; see `job.split_workers`."""
    try:
        return int(text)
    except ValueError:
        pass
    try:
        split_workers(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(
    parser: argparse.ArgumentParser,
    flags: argparse.Namespace,
    command: Sequence[str],
    **more: Any,
) -> int:
    """Runs the job that flags ask for, tells how it failed if it did, and returns the exit code.

    Args:
        parser: The command's, which tells what is wrong with a flag.
        flags: Those of `add_job`, parsed.
        command: What the workers run, as in `Job`.
        **more: Further fields of the job.
    """
    fill_closed_descriptors()
    names = {field.name for field in dataclasses.fields(Job)}
    given = {name: value for name, value in vars(flags).items() if name in names}
    try:
        fewest, most = split_workers(flags.workers)
        given |= {"workers": most, "fewest_workers": fewest, **more}
        job = Job(**{**given, "command": tuple(command)})
    except ValueError as error:
        parser.error(str(error))
    if flags.private_network:
        _enter_private_network(parser, job)
    try:
        with tempfile.TemporaryDirectory(prefix="tfdist-") as run_dir, stop_on_signals() as stop:
            *earlier, last = supervise.supervise(job, run_dir=run_dir, stop=stop)
    except (ValueError, RuntimeError, ImportError) as error:  # it could not even begin
        say(str(error))
        return 2
    except OSError as error:  # the system itself: no process more, no room in TMPDIR
        say(f"the job cannot be run here: {error}")
        return 2
    if not last.is_success or earlier:
        if not last.is_success and job.output == "chief":
            _show_log(job, last.failures)
        say(failures.report(last, earlier=earlier))
    let_go_of_broken_streams()
    return last.exit_code


def _enter_private_network(parser: argparse.ArgumentParser, job: Job) -> None:
    if job.engine != "local":
        parser.error(
            f"--private_network is for workers on this machine, and engine {job.engine!r} starts"
            " them elsewhere; leave it out, and close their ports as SECURITY.md says"
        )
    try:
        private_network.enter()
    except ValueError as error:
        parser.error(str(error))


def _show_log(job: Job, failed: Sequence[failures.Failure]) -> None:
    """Shows the output of the worker that failed first, if it was kept and not shown."""
    if not failed or failed[0].rank == 0 or job.log_dir is None:
        return
    path = os.path.join(job.log_dir, f"worker_{failed[0].rank}.log")
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        say(f"the output of worker {failed[0].rank}, which failed first:")
        write(file.read().encode(), sys.stderr)
