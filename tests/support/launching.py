"""How the tests of the launcher start it, and read what it says."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import textwrap
import time

import tfdist

CHECKOUT = pathlib.Path(tfdist.__file__).parent.parent
# Where what tests send to other processes is found there.
TEST_PATHS = [str(CHECKOUT), str(CHECKOUT / "tests"), str(CHECKOUT / "tests" / "support")]
LIMIT_SECS = 60.0  # for one command; most take a quarter of a second

# A line of a program: starts a process that would live for a minute.
GRANDCHILD = (
    "import subprocess, sys\n"
    "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
)


def write_program(folder, code, name="program.py"):
    """Writes a program; returns its path."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(textwrap.dedent(code))
    return str(path)


def environ_with(**variables):
    """This process's environment, with tfdist on the path and these variables."""
    environ = {name: os.environ[name] for name in os.environ if name != "PYTHONUNBUFFERED"}
    return {**environ, "PYTHONPATH": str(CHECKOUT), **variables}


def launch(*arguments, cwd=None, env=None, limit_secs=LIMIT_SECS):
    """Runs the launcher to its end."""
    return subprocess.run(
        [sys.executable, "-m", "tfdist.launch", *map(str, arguments)],
        cwd=cwd,
        env=env or environ_with(),
        capture_output=True,
        text=True,
        timeout=limit_secs,
        check=False,
    )


def start(*arguments):
    """Starts the launcher, in a process group of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "tfdist.launch", *map(str, arguments)],
        env=environ_with(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def lines_of(done, rank):
    """What a worker has written to its standard output."""
    prefix = f"[worker {rank}] "
    return [line[len(prefix) :] for line in done.stdout.splitlines() if line.startswith(prefix)]


def wait_for(condition, what="it did not come to that", *, limit_secs=20):
    """Waits until something is so, with a limit."""
    deadline = time.monotonic() + limit_secs
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def is_alive(pid):
    """Whether there is a process of this number that has not ended."""
    try:
        state = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"
