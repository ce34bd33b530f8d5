"""How is distributed code tested?  Worker processes and logical CPUs, for our tests and users'.

Synopsis:

    >>> import math
    >>> run_workers(math.factorial, workers=2, args=(3,))
    [6, 6]
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfdist import launch

# Quick enough for a test that has gone wrong, long enough for two workers that import TensorFlow.
TIMEOUT_SECS = 100.0


def run_workers(
    fn: Callable[..., Any],
    *,
    workers: int = 2,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    threads: int | None = None,
    timeout_secs: float = TIMEOUT_SECS,
    env: Mapping[str, str] | None = None,
) -> list[Any]:
    """Calls a function in each of several new worker processes, within a time limit.

    Every worker's output comes through `sys.stdout` and `sys.stderr` of the caller, so a test
    framework captures it; where the time is over, so do the stacks of all threads of all workers.

    Args:
        fn: As for `tfdist.launch.run`.
        workers: Number of workers.
        args: Positional arguments of `fn`, the same for each worker.
        kwargs: Keyword arguments of `fn`, the same for each worker.
        threads: Computing threads of each worker; by default this machine's cores / workers.
        timeout_secs: Longest time for all of it, in seconds.
        env: Further environment variables of the workers.

    Returns:
        What `fn` returned on each worker, in rank order.

    Raises:
        RuntimeError: A worker failed; the message holds its traceback. Or the time was over.
    """
    return launch.run(
        fn,
        workers=workers,
        args=args,
        kwargs=kwargs,
        threads=threads,
        timeout_secs=timeout_secs,
        roll_call_secs=min(timeout_secs, 60.0),
        env={"TF_CPP_MIN_LOG_LEVEL": "2", **(env or {})},
    )


def logical_cpus(n: int) -> list[str]:
    """Splits this process's CPU into logical devices, before TensorFlow starts its runtime.

    Args:
        n: Number of logical CPUs.

    Returns:
        Their names, as `tf.distribute.MirroredStrategy` takes them: "/cpu:0" and so on.

    Raises:
        ValueError: `n` is no whole number from 1.
        RuntimeError: TensorFlow has started with another number of them.
    """
    if not isinstance(n, int) or isinstance(n, bool) or n < 1:
        raise ValueError(f"n={n!r} must be a whole number from 1.")
    import tensorflow as tf

    cpu = tf.config.list_physical_devices("CPU")[0]
    try:
        tf.config.set_logical_device_configuration(
            cpu, [tf.config.LogicalDeviceConfiguration()] * n
        )
    except RuntimeError as error:
        found = len(tf.config.list_logical_devices("CPU"))
        if found != n:
            raise RuntimeError(
                f"{n} logical CPUs were asked for, but TensorFlow has started with {found}. Call"
                f" logical_cpus({n}) before the first TensorFlow operation of the process (in"
                " pytest: in conftest.py)."
            ) from error
    return [f"/cpu:{index}" for index in range(n)]
