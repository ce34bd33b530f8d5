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
import os
import sys
import tempfile
from collections.abc import Sequence

from tfdist.launch import failures, supervise
from tfdist.launch.job import ENGINES, Job
from tfdist.launch.output import say
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
    try:
        job = Job(
            workers=flags.workers,
            command=("module" if flags.m else "script", flags.script, *flags.args),
            engine=flags.engine,
            threads=flags.threads,
            timeout_secs=flags.timeout_secs,
            roll_call_secs=flags.roll_call_secs,
            grace_secs=flags.grace_secs,
            save_secs=flags.save_secs,
            stall_secs=flags.stall_secs,
            max_restarts=flags.max_restarts,
            log_dir=flags.log_dir,
        )
    except ValueError as error:
        parser.error(str(error))
    try:
        with tempfile.TemporaryDirectory(prefix="tfdist-") as run_dir, stop_on_signals() as stop:
            *earlier, last = supervise.supervise(job, run_dir=run_dir, stop=stop)
    except (ValueError, RuntimeError, ImportError) as error:  # it could not even begin
        say(str(error))
        return 2
    if not last.is_success or earlier:
        say(failures.report(last, earlier=earlier))
    _let_go_of_broken_pipes()
    return last.exit_code


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
    add = parser.add_argument
    add("--workers", type=int, default=2, metavar="N", help="number of workers (default: 2)")
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
    add("-m", action="store_true", help="the program is a module, as in `python -m`")
    add("script", help="Python program that each worker runs")
    add("args", nargs=argparse.REMAINDER, metavar="ARGS", help="everything after it is its own")
    return parser


if __name__ == "__main__":
    sys.exit(main())
