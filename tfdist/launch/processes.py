"""How are workers started and ended on the host where this process runs?

Each is started as a new program (never forked: TensorFlow does not survive a fork) in its own
process group, so that it can be ended together with the processes that it has started.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Protocol

from tfdist.cluster import contract
from tfdist.launch import guardian
from tfdist.launch.engine import OnEnd
from tfdist.launch.output import say

_KILL_SECS = 10.0  # longest wait for the end of a killed process


class StreamTaker(Protocol):
    """Takes the workers' streams."""

    def add(self, rank: int, stream: IO[bytes], shown_at: str) -> None:
        """Takes a stream; its lines are to be written to `shown_at`: "stdout" or "stderr"."""

    def close(self) -> None:
        """Waits until all that was written has been taken."""


class Processes:
    """Workers that are processes of this host, each with its own process group.

    Args:
        pump: Takes their streams.
        on_end: Called when a worker has ended.
    """

    def __init__(self, pump: StreamTaker, *, on_end: OnEnd) -> None:
        self._pump = pump
        self._on_end = on_end
        self._workers: list[subprocess.Popen[bytes]] = []
        self._ended: list[threading.Event] = []
        self._guardian = subprocess.Popen(
            [sys.executable, "-I", "-S", guardian.__file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def add(
        self, command: Sequence[str], environ: Mapping[str, str], *, cwd: str | None = None
    ) -> None:
        """Starts the next worker, which runs child.py with this command."""
        index = len(self._workers)
        worker = subprocess.Popen(
            [sys.executable, "-m", "tfdist.launch.child", *command],
            env={**environ, contract.LAUNCHER_PID: str(os.getpid())},
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
        self._workers.append(worker)
        self._ended.append(threading.Event())
        if self._guardian.stdin and worker.stdout and worker.stderr:  # always: they are pipes
            self._guardian.stdin.write(b"%d\n" % worker.pid)
            self._guardian.stdin.flush()
            self._pump.add(index, worker.stdout, "stdout")
            self._pump.add(index, worker.stderr, "stderr")
        name = f"tfdist-worker-{index}"
        threading.Thread(target=self._watch, args=(index,), name=name, daemon=True).start()

    def _watch(self, index: int) -> None:
        exit_code = _wait_unreaped(self._workers[index])
        self._ended[index].set()
        self._on_end(index, exit_code)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the workers that still run, and to their child processes."""
        for worker, ended in zip(self._workers, self._ended, strict=True):
            if not ended.is_set():
                _signal_group(worker.pid, number)

    def end(self, *, grace_secs: float, is_urgent: Callable[[], bool] = lambda: False) -> None:
        """Ends all workers that still run, and whatever they have left running.

        Args:
            grace_secs: Time between SIGTERM and SIGKILL, in seconds.
            is_urgent: Whether to cut that short.
        """
        try:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)  # a stopped process would not get the other signal
            deadline = time.monotonic() + grace_secs
            for ended in self._ended:
                while not is_urgent() and (left := deadline - time.monotonic()) > 0:
                    if ended.wait(min(left, 0.1)):
                        break
        finally:  # also if a second Ctrl-C has interrupted the wait
            self._kill()

    def _kill(self) -> None:
        for worker in self._workers:  # not reaped yet, so the numbers are still theirs
            _signal_group(worker.pid, signal.SIGKILL)
        self._guardian.kill()
        self._guardian.communicate()
        for ended, worker in zip(self._ended, self._workers, strict=True):
            if ended.wait(_KILL_SECS):
                worker.wait()
            else:
                say(f"process {worker.pid} of a worker does not end: its host has a problem")
        self._pump.close()


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
        os.killpg(pid, number)


def _wait_unreaped(worker: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a worker, but does not reap it, so that its number stays taken.

    So a signal to its group cannot reach an unrelated process that got the same number.
    """
    if not hasattr(os, "waitid"):
        return worker.wait()
    result = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    if result is None or result.si_code == os.CLD_EXITED:
        return result.si_status if result else 0
    return -result.si_status
