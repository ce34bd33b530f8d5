"""How are the workers of a job started from the command line?

    tfdist launch --workers=2 script.py --epochs=5
    tfdist launch --workers=2 --log_dir=logs --max_restarts=3 script.py --epochs=5
    tfdist launch --workers=2 -m package.module --epochs=5
    tfdist launch --workers=2 --engine=slurm script.py --epochs=5
    tfdist launch --workers=2:8 --discover_hosts=./hosts.sh --max_restarts=9 script.py

`python -m tfdist.launch` does the same. Everything after the script's name belongs to the script.
The exit code is that of the worker that failed first: 128 + n if signal n killed it, 124 if time
was up, 2 for wrong flags.

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

from tfdist.launch import command, command_line


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code.
    """
    line = command_line.CommandLine(
        "tfdist launch", "[--workers=N] [flags] script.py ARGS", text=__doc__
    )
    command.add_job(line, workers=2)
    command.add_module(line)
    script, arguments = command.parse(line, argv, program_name="script")
    return command.run(line, ("module" if line.flags.module else "script", script, *arguments))


if __name__ == "__main__":
    sys.exit(main())
