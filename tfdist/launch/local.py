"""Engine "local": the workers are processes on this machine.

Each is started fresh (never forked: TensorFlow does not survive a fork) in a process group of its
own, so that it can be ended together with what it has started itself.
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

from tfdist import cluster
from tfdist.launch import guardian
from tfdist.launch.engine import EnvironOf, OnEnd
from tfdist.launch.job import Job
from tfdist.launch.output import Pump, say

INTERFACE = "127.0.0.1"  # where the roll call listens, and where the workers reach each other
_KILL_SECS = 10.0  # longest wait for the end of a killed process


class LocalGang:
    """The processes of one attempt."""

    def __init__(self, pump: Pump, *, on_end: OnEnd) -> None:
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

    def add(self, command: Sequence[str], environ: Mapping[str, str]) -> None:
        """Starts the next worker."""
        rank = len(self._workers)
        worker = subprocess.Popen(
            command,
            env=environ,
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
            self._pump.add(rank, worker.stdout, sys.stdout)
            self._pump.add(rank, worker.stderr, sys.stderr)
        name = f"tfdist-worker-{rank}"
        threading.Thread(target=self._watch, args=(rank,), name=name, daemon=True).start()

    def _watch(self, rank: int) -> None:
        exit_code = _wait_unreaped(self._workers[rank])
        self._ended[rank].set()
        self._on_end(rank, exit_code)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the workers that still run, and to what they have started."""
        for worker, ended in zip(self._workers, self._ended, strict=True):
            if not ended.is_set():
                _signal_group(worker.pid, number)

    def end(self, *, grace_secs: float, is_urgent: Callable[[], bool] = lambda: False) -> None:
        """Ends all workers that still run, and whatever they have left running.

        Args:
            grace_secs: Time between asking (SIGTERM) and making (SIGKILL), in seconds.
            is_urgent: Whether to cut that short.
        """
        try:
            self.signal(signal.SIGTERM)
            self.signal(signal.SIGCONT)  # one that was stopped could not hear the other
            deadline = time.monotonic() + grace_secs
            for ended in self._ended:
                while not is_urgent() and (left := deadline - time.monotonic()) > 0:
                    if ended.wait(min(left, 0.1)):
                        break
        finally:  # also where a second Ctrl-C has broken off the wait
            self._kill()

    def _kill(self) -> None:
        for worker in self._workers:  # not reaped yet, so the numbers are still theirs
            _signal_group(worker.pid, signal.SIGKILL)
        self._guardian.kill()
        self._guardian.communicate()
        for rank, (ended, worker) in enumerate(zip(self._ended, self._workers, strict=True)):
            if ended.wait(_KILL_SECS):
                worker.wait()
            else:
                say(f"worker {rank}, process {worker.pid}, does not end: its host has a problem")
        self._pump.close()


def place(job: Job, *, environ_of: EnvironOf, is_restart: bool, on_end: OnEnd) -> LocalGang:
    """Starts the workers of a job."""
    pump = Pump(log_dir=job.log_dir, is_restart=is_restart)
    gang = LocalGang(pump, on_end=on_end)
    command = [sys.executable, "-m", "tfdist.launch.child", *job.command]
    launcher = {cluster.LAUNCHER_PID: str(os.getpid())}
    try:
        for rank in range(job.workers):
            environ = environ_of(rank, local_rank=rank, local_size=job.workers, host=INTERFACE)
            gang.add(command, {**environ, **launcher})
    except BaseException:
        gang.end(grace_secs=0)
        raise
    pump.start()
    return gang


def _signal_group(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):  # it has ended
        os.killpg(pid, number)


def _wait_unreaped(worker: subprocess.Popen[bytes]) -> int:
    """Waits for the end of a worker, but leaves its process number taken.

    As long as it is, a signal to its group cannot hit a stranger who got the same number.
    """
    if not hasattr(os, "waitid"):
        return worker.wait()
    result = os.waitid(os.P_PID, worker.pid, os.WEXITED | os.WNOWAIT)
    if result is None or result.si_code == os.CLD_EXITED:
        return result.si_status if result else 0
    return -result.si_status
