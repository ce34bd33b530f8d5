"""How does a command (mpirun, srun) place the agents?  It runs agent.py as a program of its own."""

from __future__ import annotations

import collections
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence

from tfdist.cluster import contract
from tfdist.launch.engines import agent
from tfdist.launch.job import inherited_environ

AGENT = (sys.executable, "-m", "tfdist.launch.engines.agent")
_LAST_LINES = 20
_END_SECS = 5.0  # for the command to see that its processes have ended
_TERM_SECS = 10.0  # and, asked to, to end those that have not


def agent_environ(address: str, secret: str, *, rank_from: str) -> dict[str, str]:
    """The environment of the command, which its agents inherit.

    Args:
        address: "host:port" of the launcher.
        secret: Of the job.
        rank_from: Variables by which the command tells each agent its rank, separated by commas.
            Only these: the launcher's own environment may hold others.
    """
    told = {agent.LAUNCHER: address, contract.SECRET: secret, agent.RANK_FROM: rank_from}
    return inherited_environ() | told


class Command:
    """A command that is running, with an agent for each worker.

    Args:
        arguments: Its command line, which other users can read.
        environ: Its environment, which they cannot.
    """

    def __init__(self, arguments: Sequence[str], environ: Mapping[str, str]) -> None:
        self._name = os.path.basename(arguments[0])
        self._lines: collections.deque[str] = collections.deque(maxlen=_LAST_LINES)
        self._process = subprocess.Popen(
            arguments,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,  # Ctrl-C must only reach the launcher, which lets workers save
        )
        self._reader = threading.Thread(target=self._read, name="tfdist-starter", daemon=True)
        self._reader.start()

    def problem(self) -> str:
        """Returns what the command has printed, if it has ended."""
        if self._process.poll() is None:
            return ""
        self._reader.join(1.0)
        said = "\n".join(line for line in self._lines if line.strip()) or "it said nothing"
        return f"{self._name} ended with exit code {self._process.returncode}; it said:\n{said}"

    def is_queued(self) -> bool:
        """Whether the command waits in a queue."""
        return False

    def end(self) -> None:
        """Waits for the command to end, and ends it if it does not."""
        for number, secs in ((None, _END_SECS), (signal.SIGTERM, _TERM_SECS), (signal.SIGKILL, 5)):
            if number is not None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self._process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(secs)
                break
        self._reader.join(1.0)

    def _read(self) -> None:
        if self._process.stdout:
            with self._process.stdout:
                for line in self._process.stdout:
                    self._lines.append(line.rstrip())
