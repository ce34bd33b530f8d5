"""How are workers started and ended?  Together, each with its rank.

Synopsis (the same for a program: `python -m tfdist.launch --workers=2 script.py ARGS`):

    >>> import math
    >>> from tfdist import launch
    >>> launch.run(math.factorial, workers=2, args=(4,))
    [24, 24]

Read in this order; each file imports from those above it only:

1. job.py: what is asked for.
2. failures.py: which worker failed first, and how it is reported.
3. stop.py: signals to the launcher, recorded until they are checked.
4. output.py: what the workers print.
5. engine.py: what an engine is.
6. guardian.py: what ends the workers when their launcher has died.
7. processes.py: how workers are started and ended on this host.
8. watch.py: what is known of the workers of an attempt.
9. attempt.py: one attempt: place the workers, call the roll, wait for the first failure, end all.
10. places.py: for how many workers there are places now.
11. sizes.py: how many workers the next attempt of an elastic job has.
12. supervise.py: attempts and restarts.
13. call.py: how a function and its values travel between the caller and the workers.
14. child.py: what runs first inside a worker.
15. render.py: how a job is described to a cluster that starts the workers itself.
16. engines/: where workers are placed; each engine is loaded by its name.
17. private_network.py: how the workers of this machine get a network that nobody else reaches.
18. command_line.py: how the arguments of a command are read.
19. command.py: what the commands that run a program share.
20. __main__.py: the command line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["run"]


def run(
    fn: Callable[..., Any],
    *,
    workers: int | str = 2,
    engine: str = "local",
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    threads: int | None = None,
    timeout_secs: float | None = None,
    roll_call_secs: float = 60.0,
    max_restarts: int = 0,
    wait_secs: float = 60.0,
    discover_hosts: str | None = None,
    stall_secs: float | None = None,
    log_dir: str | None = None,
    env: Mapping[str, str] | None = None,
) -> list[Any]:
    """Calls a function in each of several new worker processes.

    Each worker knows its rank (`tfdist.detect_cluster()`, and TF_CONFIG if there are several), and
    its lines appear in this process's output with `[worker 0]` before them. When one worker fails
    the others are ended; whatever happens, no process is left behind.

    Args:
        fn: A function that can be imported travels by name; any other (of a notebook, of
            `__main__`, a closure, a lambda) by cloudpickle.
        workers: Number of workers; or "MIN:MAX" for a job that goes on from its last checkpoint
            with those that are left where some are lost, and with more again where they come.
        engine: What starts them: "local" (processes on this machine), "mpi" (mpirun), "slurm"
            (srun), "ray", "dask" or "spark"; each on the hosts that it is configured for.
        args: Positional arguments of `fn`, the same for each worker.
        kwargs: Keyword arguments of `fn`, the same for each worker.
        threads: Computing threads of each worker; by default the cores of this machine, divided
            by its workers.
        timeout_secs: Longest time for the whole job, in seconds; None for no limit.
        roll_call_secs: Longest time until all workers are there, in seconds.
        max_restarts: How often all workers are restarted after one has failed.
        wait_secs: How long a job of MIN:MAX workers waits for lost places, in seconds.
        discover_hosts: For such a job on the engine "local" or "mpi", a command that prints a line
            HOST:SLOTS for each host that there is, as Horovod's discovery script does.
        stall_secs: Longest time that a worker in `tfdist.fit`, `evaluate` or `predict` may take for
            a step, including the first with its tracing, in seconds; None for no limit.
        log_dir: Folder for each worker's full output, `worker_0.log` and so on; or None.
        env: Further environment variables of the workers.

    Returns:
        What `fn` returned on each worker, in rank order; of those that there were in the end.

    Raises:
        ValueError: An argument is out of its range, or the engine is unknown.
        ImportError: The engine's package is not installed.
        RuntimeError: A worker failed; the message holds the traceback of the one that failed
            first. Or a worker did not appear, time was up, or a value cannot be sent.
    """
    # Imported here, since every worker imports this module without needing them.
    from tfdist.launch import call, job

    fewest, most = job.split_workers(workers)
    asked = job.Job(
        workers=most,
        fewest_workers=fewest,
        engine=engine,
        threads=threads,
        timeout_secs=timeout_secs,
        roll_call_secs=roll_call_secs,
        max_restarts=max_restarts,
        wait_secs=wait_secs,
        discover_hosts=discover_hosts,
        stall_secs=stall_secs,
        log_dir=log_dir,
        env=dict(env or {}),
    )
    return call.run_function(asked, fn, tuple(args), dict(kwargs or {}))
