"""How are the workers of a job started from the command line?

    python -m tfdist.launch --workers=2 script.py --epochs=5
    python -m tfdist.launch --workers=2 --log_dir=logs --max_restarts=3 script.py --epochs=5
    python -m tfdist.launch --workers=2 -m package.module --epochs=5
    python -m tfdist.launch --workers=2 --engine=slurm script.py --epochs=5

Everything after the script's name belongs to the script. The exit code is that of the worker that
failed first: 128 + n if signal n killed it, 124 if time was up, 2 for wrong flags.

When told to stop (SIGTERM, SIGUSR1, SIGHUP, Ctrl-C), the launcher sends SIGTERM to the workers. In
`tfdist.fit(..., checkpoint_dir=...)` all workers then save together and exit with code 75; so does
the launcher, and the same command resumes the run. If only one worker is told to stop, all of them
leave as well; but this does not end the job, and with --max_restarts they are restarted. When told
to stop a second time, the launcher ends them at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from tfdist.launch import failures, supervise
from tfdist.launch.job import ENGINES, Job
from tfdist.launch.output import say, write
from tfdist.launch.stop import stop_on_signals


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code.
    """
    parser = _make_parser()
    flags = parser.parse_args(argv)
    if not flags.m and not os.path.exists(flags.script):
        parser.error(f"script={flags.script!r} is not there; give the path of a Python program")
    command = ("module" if flags.m else "script", flags.script, *flags.args)
    try:
        job = job_of(flags, command)
    except ValueError as error:
        parser.error(str(error))
    return run(job)


def job_of(flags: argparse.Namespace, command: Sequence[str], **more: Any) -> Job:
    """Makes the job that parsed flags ask for.

    Args:
        flags: Those of `add_flags`.
        command: What the workers run, as in `Job`.
        **more: Further fields of the job.

    Raises:
        ValueError: A flag is invalid.
    """
    names = {field.name for field in dataclasses.fields(Job)}
    given = {name: value for name, value in vars(flags).items() if name in names}
    return Job(**{**given, **more, "command": tuple(command)})


def run(job: Job) -> int:
    """Runs a job, tells how it failed if it did, and returns the exit code."""
    try:
        with tempfile.TemporaryDirectory(prefix="tfdist-") as run_dir, stop_on_signals() as stop:
            *earlier, last = supervise.supervise(job, run_dir=run_dir, stop=stop)
    except (ValueError, RuntimeError, ImportError) as error:  # it could not even begin
        say(str(error))
        return 2
    if not last.is_success or earlier:
        if not last.is_success and job.output == "chief":
            _show_log(job, last.failures)
        say(failures.report(last, earlier=earlier))
    _let_go_of_broken_pipes()
    return last.exit_code


def _show_log(job: Job, failed: Sequence[failures.Failure]) -> None:
    """Shows the output of the worker that failed first, if it was kept and not shown."""
    if not failed or failed[0].rank == 0 or job.log_dir is None:
        return
    path = os.path.join(job.log_dir, f"worker_{failed[0].rank}.log")
    with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="replace") as file:
        say(f"the output of worker {failed[0].rank}, which failed first:")
        write(file.read().encode(), sys.stderr)


def _let_go_of_broken_pipes() -> None:
    """Keeps the exit code: Python would make it 120 if the reader of its output has gone."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tfdist.launch",
        usage="%(prog)s [--workers=N] [flags] script.py ARGS",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add_flags(parser, workers=2)
    parser.add_argument("-m", action="store_true", help="the program is a module, as `python -m`")
    parser.add_argument("script", help="Python program that each worker runs")
    parser.add_argument(
        "args", nargs=argparse.REMAINDER, metavar="ARGS", help="everything after it is its own"
    )
    return parser


def add_flags(parser: argparse.ArgumentParser, *, workers: int) -> None:
    """Adds the flags of a job.

    Args:
        parser: Of a command that starts one.
        workers: Their number by default.
    """
    add = parser.add_argument
    add(
        "--workers", type=int, default=workers, metavar="N",
        help="number of workers (default: %(default)s)",
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


if __name__ == "__main__":
    sys.exit(main())
