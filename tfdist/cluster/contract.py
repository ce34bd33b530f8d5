"""What do the launcher and its workers agree on: variables, exit codes, files?

The launcher writes the variables and reads the exit codes and files; a worker does the reverse.
Any other way to start workers may set the same variables.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping

from tfdist.cluster.wording import shorten

# The ranks of a worker. Numbers count workers from 0; "local" means on this host.
RANK = "TFDIST_RANK"
SIZE = "TFDIST_SIZE"
LOCAL_RANK = "TFDIST_LOCAL_RANK"
LOCAL_SIZE = "TFDIST_LOCAL_SIZE"
ADDRESSES = "TFDIST_ADDRESSES"  # "host:port,host:port" in rank order; set after the roll call
# The roll call.
RENDEZVOUS = "TFDIST_RENDEZVOUS"  # "host:port" of the roll call
SECRET = "TFDIST_SECRET"  # which both sides must know
ROLL_CALL_SECS = "TFDIST_ROLL_CALL_SECS"  # how long a worker waits for the others, in seconds
HOST = "TFDIST_HOST"  # the name or address under which the others reach this worker
# How to run.
HEARTBEAT_SECS = "TFDIST_HEARTBEAT_SECS"  # silence after which a worker is lost; 0 for no heartbeat
THREADS = "TFDIST_THREADS"  # computing threads of this worker
RESTART_COUNT = "TFDIST_RESTART_COUNT"  # 0 in the first attempt, 1 after the first restart
RUN_DIR = "TFDIST_RUN_DIR"  # private folder of the launcher: function, results, tracebacks
ELASTIC = "TFDIST_ELASTIC"  # "1" if the launcher may ask the workers to save and leave
LAUNCHER_PID = "TFDIST_LAUNCHER_PID"  # a worker ends with that process

# What users set for the workers, on hosts of their own too.
IDENTITY_FILE = "TFDIST_IDENTITY_FILE"  # path of the file whose keys read what is encrypted
MEMORY_FOLDER = "TFDIST_MEMORY_FOLDER"  # a folder that is memory, for what no disk should hold
OF_USERS = (HEARTBEAT_SECS, IDENTITY_FILE, MEMORY_FOLDER)

NUM_WORKERS = "TFDIST_NUM_WORKERS"  # the size, if an environment only tells the rank

# Exit codes of a worker, from the BSD list that sysexits.h has.
PREEMPTED = 75  # EX_TEMPFAIL: it was told to leave, and has saved; run the same command again
PEER_LOST = 69  # EX_UNAVAILABLE: another worker has gone, or is silent
_LONGEST_TRACEBACK = 20_000  # characters; the end says more than the beginning

MAX_SECS = 1_000_000.0  # eleven days; the system's own waits end at some twenty


def parse_secs(value: object, name: str, *, limit: float = MAX_SECS) -> float:
    """Reads a time in seconds, as people give it in arguments, flags and variables.

    Args:
        value: A number, or a text with one.
        name: What it was given for.
        limit: The longest time that can be.

    Raises:
        ValueError: It is no such number.
    """
    try:
        secs = float(value) if isinstance(value, (int, float, str)) else -1.0
    except (ValueError, OverflowError):
        secs = -1.0
    if not 0 < secs <= limit:
        raise ValueError(
            f"{name}={shorten(value)} must be a number of seconds above 0, up to {limit:g}."
        )
    return secs


class Saved(SystemExit):
    """Ends a worker that was told to leave, after its run was saved."""

    def __init__(self) -> None:
        super().__init__(PREEMPTED)


def write_failure(
    run_dir: str,
    *,
    rank: int,
    at: float,
    exit_code: int,
    traceback: str,
    has_saved: bool = False,
    lost: int | None = None,
) -> None:
    """Records, inside a worker, that an exception has escaped, or which worker it has lost.

    Args:
        run_dir: Private folder of the attempt.
        rank: The worker.
        at: When, on the clock of time.monotonic, which the launcher's host shares.
        exit_code: With which the process ends.
        traceback: As Python prints it.
        has_saved: Whether the run was saved before.
        lost: The worker for which it waited in vain, or None.
    """
    text = json.dumps(
        {
            "at": at,
            "exit_code": exit_code,
            "traceback": traceback[-_LONGEST_TRACEBACK:],
            "has_saved": has_saved,
            "lost": lost,
        }
    )
    path = failure_path(run_dir, rank)
    with open(path + ".part", "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(path + ".part", path)  # a reader finds all of it or nothing


def failure_path(run_dir: str, rank: int) -> str:
    """Returns the file in which a worker records its failure."""
    return os.path.join(run_dir, f"failure_{rank}.json")


def ask_to_leave(run_dir: str) -> None:
    """Asks the workers whose private folder it is to save and leave, as soon as they can.

    Not by a signal: that would end a worker which has nothing to save.
    """
    with open(_leave_path(run_dir), "wb"):
        pass


def is_asked_to_leave(environ: Mapping[str, str]) -> bool:
    """Whether the launcher has asked this worker to save and leave."""
    folder = environ.get(RUN_DIR) if environ.get(ELASTIC) == "1" else None
    return folder is not None and os.path.exists(_leave_path(folder))


def _leave_path(run_dir: str) -> str:
    return os.path.join(run_dir, "leave")
