"""How are the workers of a job started from the command line?

    python -m tfdist.launch --workers=2 script.py --epochs=5
    python -m tfdist.launch --workers=2 --log_dir=logs --max_restarts=3 script.py --epochs=5
    python -m tfdist.launch --workers=2 -m package.module --epochs=5
    python -m tfdist.launch --workers=2 --engine=slurm script.py --epochs=5
    python -m tfdist.launch --workers=2:8 --discover_hosts=./hosts.sh --max_restarts=9 script.py

Everything after the script's name belongs to the script. The exit code is that of the worker that
failed first: 128 + n if signal n killed it, 124 if time was up, 2 for wrong flags.

When told to stop (SIGTERM, SIGUSR1, SIGHUP, Ctrl-C), the launcher sends SIGTERM to the workers. In
`tfdist.fit(..., checkpoint_dir=...)` all workers then save together and exit with code 75; so does
the launcher, and the same command resumes the run. If only one worker is told to stop, all of them
leave as well; but this does not end the job, and with --max_restarts they are restarted. When told
to stop a second time, the launcher ends them at once.

With --workers=MIN:MAX `tfdist.fit(..., checkpoint_dir=...)` goes on with other numbers of workers
and the same batches, and ends with the weights of an undisturbed run, to rounding. Where hosts come
or go (--discover_hosts; Slurm, Ray and Dask tell it themselves), all workers save, and as many
begin as there are places. One that fails costs one of --max_restarts, unless its place has gone. A
program that saves nothing is left as it is until it ends or fails.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tfdist.launch import command


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code.
    """
    parser = command.make_parser(
        "python -m tfdist.launch", "[--workers=N] [flags] script.py ARGS", description=__doc__
    )
    command.add_job(parser, workers=2)
    command.add_program(parser, "script", may_be_module=True)
    flags = command.parse(parser, argv)
    kind = "module" if flags.m else "script"
    return command.run(parser, flags, (kind, flags.script, *flags.args))


if __name__ == "__main__":
    sys.exit(main())
