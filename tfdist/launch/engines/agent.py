"""What does an engine place on a host?  An agent: it starts one worker there, and reports on it.

    python -m tfdist.launch.engines.agent      what mpirun and srun run; other engines call `serve`

The agent connects to the launcher and is told what to run. From then on it sends the launcher what
the worker prints and records, and passes signals to the worker. When the connection ends, so do the
agent and its worker: no engine has to know how workers are ended.
"""

from __future__ import annotations

import contextlib
import os
import platform
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import IO, Any

from tfdist.cluster import contract, environments
from tfdist.cluster.progress import read_progress
from tfdist.launch import failures
from tfdist.launch.engines import wire
from tfdist.launch.job import inherited_environ, own_cores
from tfdist.launch.processes import Processes

# What an engine's command tells its agents.
LAUNCHER = "TFDIST_LAUNCHER"  # "host:port" of the launcher
RANK_FROM = "TFDIST_RANK_FROM"  # the variables, the first of them that is set, that tell the rank
_CONNECT_SECS = 30.0
_LOOK_SECS = 0.1
_PROGRESS_SECS = 0.5


def serve(address: str, *, secret: str, rank: int) -> None:
    """Runs the worker of this rank, and returns when all its processes have ended.

    Args:
        address: "host:port" of the launcher.
        secret: The job's secret.
        rank: The worker's rank, over all workers.

    Raises:
        RuntimeError: The launcher of this job cannot be reached.
    """
    line = _connect(address, secret=secret, rank=rank)
    with contextlib.closing(line), tempfile.TemporaryDirectory(prefix="tfdist-") as run_dir:
        order = _await_order(line, run_dir)
        if order is not None:
            _run_worker(line, order, rank=rank, run_dir=run_dir)


def _connect(address: str, *, secret: str, rank: int) -> wire.Wire:
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + _CONNECT_SECS
    who = {
        "rank": rank,
        "hostname": platform.node(),
        "cores": own_cores(),
        "python": platform.python_version(),
    }
    while True:
        try:
            connection = socket.create_connection((host.strip("[]"), int(port)), timeout=10.0)
            return wire.answer(connection, secret=secret.encode(), who=who)
        except (OSError, ValueError) as error:
            if time.monotonic() > deadline:
                raise RuntimeError(
                    f"The agent of worker {rank} on {platform.node()} cannot reach the launcher at"
                    f" {address} ({error}). Check the way between the hosts, or name an address of"
                    f" the launcher's host that they can reach: {contract.HOST}=ADDRESS."
                ) from error
            time.sleep(0.2)


def _await_order(line: wire.Wire, run_dir: str) -> dict[str, Any] | None:
    """Waits until the launcher says what to run; returns None if it ends before."""
    with contextlib.suppress(EOFError, ValueError):
        while True:
            message, data = line.receive()
            if message["kind"] == "file":
                with open(os.path.join(run_dir, os.path.basename(message["name"])), "ab") as file:
                    file.write(data)
            elif message["kind"] == "start":
                return message
            elif message["kind"] == "end":
                return None
    return None


def _run_worker(line: wire.Wire, order: dict[str, Any], *, rank: int, run_dir: str) -> None:
    ended = threading.Event()
    exit_codes: list[int] = []

    def on_end(_: int, code: int) -> None:
        exit_codes.append(code)
        ended.set()

    environ = {
        **inherited_environ(),
        **order["forwarded"],
        **order["environ"],
        contract.RUN_DIR: run_dir,
    }
    command = list(order["command"])
    if command[0] == "function":  # it came as a file, and lies here now
        command[1] = os.path.join(run_dir, os.path.basename(command[1]))
    cwd = order["cwd"] if os.path.isdir(order["cwd"]) else run_dir
    processes = Processes(Carrier(line), on_end=on_end)
    try:
        processes.add(command, environ, cwd=cwd)
        reporter = threading.Thread(
            target=_report,
            args=(line, ended, exit_codes),
            kwargs={"rank": rank, "run_dir": run_dir},
            name="tfdist-report",
            daemon=True,
        )
        reporter.start()
        with _forwarded_signals(processes):
            grace_secs = _obey(line, processes, run_dir=run_dir)
    except BaseException:
        processes.end(grace_secs=0.0)
        raise
    urgent = threading.Event()
    threading.Thread(target=_await_urgent, args=(line, urgent), daemon=True).start()
    processes.end(grace_secs=grace_secs, is_urgent=urgent.is_set)
    reporter.join(10.0)
    with contextlib.suppress(OSError):
        line.send("gone")


def _obey(line: wire.Wire, processes: Processes, *, run_dir: str) -> float:
    """Follows the launcher until it ends the worker; returns the grace period in seconds."""
    try:
        while True:
            message, _ = line.receive()
            if message["kind"] == "signal":
                processes.signal(signal.Signals(message["number"]))
            elif message["kind"] == "leave":
                with contextlib.suppress(OSError):  # a full disk: it goes on as it is
                    contract.ask_to_leave(run_dir)
            elif message["kind"] == "end":
                return float(message["grace_secs"])
    except (EOFError, ValueError):
        return 0.0  # the launcher has gone, or is no launcher


def _await_urgent(line: wire.Wire, urgent: threading.Event) -> None:
    """Waits for any further message from the launcher, which means: end at once."""
    with contextlib.suppress(EOFError, ValueError, OSError):
        line.receive()
    urgent.set()


@contextlib.contextmanager
def _forwarded_signals(processes: Processes) -> Iterator[None]:
    """Passes a scheduler's signals on to the worker, if this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def hand_on(number: int, frame: object) -> None:
        processes.signal(signal.Signals(number))

    before = {
        number: signal.signal(number, hand_on)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
        if signal.getsignal(number) is not None
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


# --------------------------------------------------------------------------------- what is reported


def _report(
    line: wire.Wire, ended: threading.Event, exit_codes: list[int], *, rank: int, run_dir: str
) -> None:
    """Sends the worker's failure and progress as they are recorded, and then its end."""
    has_failed, count, looked_at = False, 0, 0.0
    with contextlib.suppress(OSError):
        while True:
            is_over = ended.wait(_LOOK_SECS)
            failure = None if has_failed else failures.read_failure(run_dir, rank)
            if failure:
                has_failed = True
                line.send(
                    "failure",
                    age=time.monotonic() - failure.at,  # the clocks of two hosts may differ
                    exit_code=failure.exit_code,
                    has_saved=failure.has_saved,
                    lost=failure.lost,
                    data=failure.traceback.encode("utf-8", "replace"),
                )
            if is_over:
                break
            if time.monotonic() > looked_at + _PROGRESS_SECS:
                looked_at = time.monotonic()
                if (now := read_progress(run_dir, rank)) != count:
                    count = now
                    line.send("progress", count=count)
        send_file(line, os.path.join(run_dir, f"value_{rank}.pickle"))
        line.send("ended", exit_code=exit_codes[0])


def send_file(line: wire.Wire, path: str) -> None:
    """Sends a file in pieces, if it exists."""
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        while piece := file.read(wire.MAX_DATA):
            line.send("file", name=os.path.basename(path), data=piece)


class Carrier:
    """Carries a worker's two streams over the wire."""

    def __init__(self, line: wire.Wire) -> None:
        self._line = line
        self._threads: list[threading.Thread] = []

    def add(self, rank: int, stream: IO[bytes], shown_at: str) -> None:
        """Takes a stream."""
        thread = threading.Thread(target=self._carry, args=(stream, shown_at), daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Waits until all that was written has been sent."""
        for thread in self._threads:  # a process that left its group may hold a stream open
            thread.join(5.0)

    def _carry(self, stream: IO[bytes], name: str) -> None:
        with stream:
            while data := os.read(stream.fileno(), 1 << 16):
                with contextlib.suppress(OSError):  # a reader that has gone must not block it
                    self._line.send(name, data=data)


# ---------------------------------------------------------------------------- under mpirun and srun


def main() -> None:
    """Serves as the agent whose rank the engine's variables tell."""
    names = os.environ.get(RANK_FROM, "")
    rank = next((name for name in names.split(",") if name in os.environ), None)
    if rank is None:
        raise SystemExit(
            f"tfdist: {RANK_FROM}={names!r} names no variable that is set; agents are started by"
            " the launcher, with python -m tfdist.launch --engine=mpi or slurm."
        )
    try:
        serve(
            os.environ[LAUNCHER],
            secret=os.environ[contract.SECRET],
            rank=environments.read_count(os.environ, rank),
        )
    except RuntimeError as error:
        raise SystemExit(f"tfdist: {error}") from None


if __name__ == "__main__":
    main()
