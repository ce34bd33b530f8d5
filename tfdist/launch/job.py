"""What is a job: how many workers run what, and with which environment?"""

from __future__ import annotations

import dataclasses
import os
import site
from collections.abc import Mapping

from tfdist.cluster import contract, environments, quiet

# Each is a module of this package; engine.py says what is in it.
ENGINES = ("local", "mpi", "slurm", "ray", "dask", "spark")

# Whose output is shown.
OUTPUTS = ("all", "chief")

# "0" if workers leave their tracebacks to the launcher, since there is no log of their output.
TRACEBACKS = "TFDIST_TRACEBACKS"

_TIMES = (
    "roll_call_secs", "grace_secs", "save_secs", "stall_secs", "backoff_secs", "timeout_secs",
    "wait_secs",
)  # fmt: skip
_WITH_HOSTS = ("local", "mpi")  # engines that a command may tell the hosts
_LONGEST_JOB_SECS = 1e9  # thirty years
# Variables of the launcher that workers on other hosts get too: those about computation.
_FORWARDED = ("KERAS_", "TF_", "XLA_", "NCCL_", "PYTHONHASHSEED")


@dataclasses.dataclass(frozen=True)
class Job:
    """A job, as the user asked for it; the same on every engine."""

    workers: int  # of an elastic job, the most
    command: tuple[str, ...] = ()  # what child.py runs: a kind, a target and its arguments
    engine: str = "local"
    threads: int | None = None  # of each worker; None divides the cores of its host
    timeout_secs: float | None = None  # for the whole job
    roll_call_secs: float = 60.0
    grace_secs: float = 5.0  # between SIGTERM and SIGKILL when the workers are ended
    save_secs: float = 25.0  # between SIGTERM and the end when the job itself is told to stop
    stall_secs: float | None = None  # longest time without a step
    fewest_workers: int | None = None  # with which an elastic job goes on; None for no such job
    wait_secs: float = 60.0  # for lost places to come back, before it goes on without them
    discover_hosts: str | None = None  # a command that prints the hosts that there are
    hosts: tuple[tuple[str, int], ...] = ()  # what it, or an engine, has named: workers on each
    max_restarts: int = 0
    backoff_secs: float = 1.0  # before the first restart; twice as long before each next one
    log_dir: str | None = None
    output: str = "all"  # whose output is shown: "all" workers', or the "chief"'s alone
    env: Mapping[str, str] = dataclasses.field(default_factory=dict)

    @property
    def is_quiet(self) -> bool:
        """Whether the terminal is spared informational log: unless the user asks for it."""
        return quiet.hides_information({**os.environ, **self.env})

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise ValueError(f"engine={self.engine!r} is unknown; use one of {ENGINES}.")
        if self.output not in OUTPUTS:
            raise ValueError(f"output={self.output!r} is unknown; use one of {OUTPUTS}.")
        _check_number("workers", self.workers, at_least=1)
        _check_number("threads", 1 if self.threads is None else self.threads, at_least=1)
        _check_number("max_restarts", self.max_restarts, at_least=0)
        if self.fewest_workers is not None:
            _check_number("fewest_workers", self.fewest_workers, at_least=1)
            if self.fewest_workers > self.workers:
                raise ValueError(
                    f"workers={self.fewest_workers}:{self.workers} has its larger number first;"
                    " give MIN:MAX."
                )
        if self.discover_hosts is not None:
            self._check_discovery()
        for name in _TIMES:
            secs = getattr(self, name)
            if secs is not None:
                limit = _LONGEST_JOB_SECS if name == "timeout_secs" else contract.MAX_SECS
                if isinstance(secs, str):  # as it is used, not as it could be read
                    raise ValueError(f"{name}={secs!r} must be a number of seconds, not a text.")
                contract.parse_secs(secs, name, limit=limit)
        for name, value in self.env.items():
            if not (isinstance(name, str) and isinstance(value, str)):
                raise ValueError(f"env={{{name!r}: {value!r}}} must map texts to texts.")

    @property
    def is_elastic(self) -> bool:
        """Whether it goes on with fewer workers where some are lost, and with more again."""
        return self.fewest_workers is not None

    def _check_discovery(self) -> None:
        found = f"discover_hosts={self.discover_hosts!r}"
        if not self.is_elastic:
            raise ValueError(
                f"{found} is for a job whose number of workers changes; give workers=MIN:MAX."
            )
        if self.engine not in _WITH_HOSTS:
            raise ValueError(
                f"{found} is for the engines {' and '.join(_WITH_HOSTS)}; engine={self.engine!r}"
                " knows its own hosts: leave it out."
            )
        if not (self.discover_hosts or "").strip():
            raise ValueError(f"{found} names no command; give one that prints HOST:SLOTS lines.")


def split_workers(value: int | str) -> tuple[int | None, int]:
    """Reads a number of workers, or MIN:MAX; returns the fewest, None for a number, and the most.

    >>> split_workers(4), split_workers("4"), split_workers("2:8")
    ((None, 4), (None, 4), (2, 8))

    Raises:
        ValueError: It is neither.
    """
    if not isinstance(value, str):
        return None, value
    fewest, colon, most = value.rpartition(":")
    parts = [fewest, most] if colon else [most]
    if not all(part.isascii() and part.isdigit() and len(part) < 9 for part in parts):
        raise ValueError(f"workers={value!r} must be a whole number from 1, or MIN:MAX as 2:8.")
    return int(fewest) if colon else None, int(most)


def _check_number(name: str, value: object, *, at_least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
        raise ValueError(f"{name}={value!r} must be a whole number from {at_least}.")


def make_environ(
    job: Job,
    rank: int,
    *,
    local_rank: int,
    local_size: int,
    rendezvous: str,
    secret: str,
    host: str,
    cores: int,
    run_dir: str,
    restart_count: int,
) -> dict[str, str]:
    """Makes the variables of one worker, which are added to those of its host.

    Args:
        job: The requested job.
        rank: The worker's rank, over all workers.
        local_rank: The worker's rank among those on its host.
        local_size: Number of workers on its host.
        rendezvous: "host:port" of the roll call.
        secret: What the roll call demands.
        host: Name or address under which the others reach the worker.
        cores: Number of cores of its host that the worker shares with the others there.
        run_dir: Private folder for results and tracebacks.
        restart_count: Restarts so far.
    """
    threads = str(job.threads or max(1, cores // local_size))
    environ = {
        # TensorFlow reads the first two when it starts; NumPy and the libraries below, the third.
        "TF_NUM_INTRAOP_THREADS": threads,
        "TF_NUM_INTEROP_THREADS": threads,
        "OMP_NUM_THREADS": threads,
        contract.THREADS: threads,
        contract.RANK: str(rank),
        contract.SIZE: str(job.workers),
        contract.LOCAL_RANK: str(local_rank),
        contract.LOCAL_SIZE: str(local_size),
        contract.RENDEZVOUS: rendezvous,
        contract.SECRET: secret,
        contract.ROLL_CALL_SECS: str(job.roll_call_secs),
        contract.HOST: host,
        contract.RUN_DIR: run_dir,
        contract.RESTART_COUNT: str(restart_count),
        contract.ELASTIC: "1" if job.is_elastic else "0",
        TRACEBACKS: "0" if job.log_dir is None or job.output == "chief" else "1",
    }
    has_level = quiet.LOG_LEVEL in os.environ
    if job.log_dir is None and not has_level:  # else the log files get it
        environ[quiet.LOG_LEVEL] = quiet.WITHOUT_INFORMATION
    return environ | dict(job.env)


def inherited_environ() -> dict[str, str]:
    """Returns this process's environment, without what its workers must not inherit."""
    foreign = foreign_variables()
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in foreign
        and (name in contract.OF_USERS or not name.startswith("TFDIST_"))
    }
    # Sets of names must have one order on all workers, or their collectives would not match.
    environ.setdefault("PYTHONHASHSEED", "0")
    environ["PYTHONPATH"] = _python_path(environ.get("PYTHONPATH", ""))
    return environ


def forwarded_environ() -> dict[str, str]:
    """Returns the variables of this process that workers on other hosts get too."""
    return {
        name: value
        for name, value in inherited_environ().items()
        if name in contract.OF_USERS
        or (name.startswith(_FORWARDED) and name not in ("TF_CONFIG",))
    }


def foreign_variables() -> tuple[str, ...]:
    """Names the variables of this process that describe its own rank in another launcher's job.

    Its workers must not inherit them: they have ranks of their own.
    """
    known = ("TF_CONFIG", *environments.RECOGNISED_BY)
    return tuple(name for name in known if name in os.environ)


def count_cores() -> int:
    """Counts the cores that this process may use."""
    return len(own_cores())


def own_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def _python_path(inherited: str) -> str:
    """Adds the folder of tfdist to PYTHONPATH, since it may be a checkout that is not installed.

    A site-packages folder is found anyway, and would hide the standard library if it came first.
    """
    package = os.path.dirname(os.path.dirname(os.path.abspath(contract.__file__)))
    root = os.path.dirname(package)
    paths = inherited.split(os.pathsep) if inherited else []
    if root in (*site.getsitepackages(), site.getusersitepackages(), *paths):
        return inherited
    return os.pathsep.join([root, *paths])
