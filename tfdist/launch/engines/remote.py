"""How does the launcher control workers on other hosts?  Through an agent beside each worker.

An engine itself has little to do: run `agent.serve` once for each worker (a Placement), and remove
what is left at the end. Commands, output, values and exit codes travel over the wire.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from tfdist.cluster import contract
from tfdist.cluster.wording import shorten
from tfdist.launch import failures
from tfdist.launch.engine import EnvironOf, OnEnd
from tfdist.launch.engines import agent, wire
from tfdist.launch.job import Job, forwarded_environ
from tfdist.launch.output import Pump

MAX_STRANGERS = 64  # connections that have not proved yet that they know the secret
_GONE_SECS = 10.0  # longest wait, after the grace period, for an agent's last message


class Placement(Protocol):
    """What an engine has put somewhere: one agent for each worker."""

    def problem(self) -> str:
        """Says why not all agents will come; "" if they still may."""

    def is_queued(self) -> bool:
        """Tells whether all of them wait in a scheduler's queue."""

    def end(self) -> None:
        """Removes whatever is left, after all agents that could be reached have ended."""


# Takes "host:port" of the launcher and the job's secret.
Seat = Callable[[str, str], Placement]


@dataclasses.dataclass
class _Seated:
    """An agent, and the worker that it holds."""

    line: wire.Wire
    host: str  # the address that it connected from
    hostname: str
    cores: tuple[int, ...]
    streams: dict[str, int] = dataclasses.field(default_factory=dict)
    has_ended: bool = False  # its worker
    gone: threading.Event = dataclasses.field(default_factory=threading.Event)


class RemoteGang:
    """The workers of one attempt, each controlled by an agent.

    Args:
        job: The requested job.
        interface: Address of this host at which agents and workers can reach it.
        seat: Starts the agents where the engine places them.
        is_restart: Whether to append to the log files of an earlier attempt.
    """

    def __init__(self, job: Job, *, interface: str, seat: Seat, is_restart: bool) -> None:
        self.interface = interface
        self._job = job
        self._secret = os.urandom(32).hex()
        self._pump = Pump(
            log_dir=job.log_dir, is_restart=is_restart, output=job.output, is_quiet=job.is_quiet
        )
        self._seated: dict[int, _Seated] = {}
        self._strangers = threading.Semaphore(MAX_STRANGERS)
        self._is_over = False
        self._run_dir = ""
        self._on_end: OnEnd = lambda rank, code: None
        family = socket.AF_INET6 if ":" in interface else socket.AF_INET
        self._listener = socket.create_server((interface, 0), family=family, backlog=1024)
        host = f"[{interface}]" if ":" in interface else interface
        threading.Thread(target=self._accept, name="tfdist-agents", daemon=True).start()
        try:
            self._placement = seat(f"{host}:{self._listener.getsockname()[1]}", self._secret)
        except BaseException:
            self._is_over = True
            self._listener.close()
            raise

    # ------------------------------------------------------------------------------- the four steps

    def absent(self) -> list[int]:
        """Ranks whose agents have not come."""
        return [rank for rank in range(self._job.workers) if rank not in self._seated]

    def problem(self) -> str:
        """What the engine says."""
        return self._placement.problem()

    def is_queued(self) -> bool:
        """Whether a scheduler lets all of them wait for their turn."""
        return self._placement.is_queued()

    def start(self, *, environ_of: EnvironOf, run_dir: str, on_end: OnEnd) -> None:
        """Tells the agents to start their workers."""
        self._run_dir, self._on_end = run_dir, on_end
        for rank, seated in self._seated.items():
            for name in ("stdout", "stderr"):
                read_end, seated.streams[name] = os.pipe()
                self._pump.add(rank, os.fdopen(read_end, "rb", buffering=0), name)
        self._pump.start()
        for rank, seated in self._seated.items():
            self._give_order(seated, environ_of(rank, **self._location_of(rank)))
            threading.Thread(
                target=self._listen, args=(rank, seated), name=f"tfdist-agent-{rank}", daemon=True
            ).start()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the workers that still run."""
        self._tell(lambda seated: not seated.has_ended, "signal", number=int(number))

    def ask_to_leave(self) -> None:
        """Asks the workers to save and leave."""
        self._tell(lambda seated: not seated.has_ended, "leave")

    def end(self, *, grace_secs: float, is_urgent: Callable[[], bool]) -> None:
        """Ends all workers that still run, and the agents."""
        self._is_over = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._tell(lambda seated: not seated.gone.is_set(), "end", grace_secs=grace_secs)
        was_urgent = False
        deadline = time.monotonic() + grace_secs + _GONE_SECS
        try:
            while time.monotonic() < deadline and not self._all_gone():
                if is_urgent() and not was_urgent:
                    was_urgent = True
                    self._tell(lambda seated: not seated.gone.is_set(), "end", grace_secs=0.0)
                time.sleep(0.02)
        finally:
            self._placement.end()
            for seated in self._seated.values():
                seated.line.close()
                self._close_streams(seated)
            if self._run_dir:
                self._pump.close()

    # ---------------------------------------------------------------------- agents come and are led

    def _accept(self) -> None:
        while not self._is_over:
            try:
                connection, address = self._listener.accept()
            except OSError:
                if self._is_over:
                    return
                time.sleep(0.05)  # such as too many open files
                continue
            if self._strangers.acquire(blocking=False):
                guest = threading.Thread(
                    target=self._meet, args=(connection, address[0]), daemon=True
                )
                guest.start()
            else:
                connection.close()

    def _meet(self, connection: socket.socket, host: str) -> None:
        try:
            line, who = wire.greet(connection, secret=self._secret.encode())
            rank = int(who["rank"])
            cores = tuple(int(core) for core in who["cores"])
            seated = _Seated(line, host, str(who["hostname"]), cores)
            if (
                rank not in range(self._job.workers)
                or self._seated.setdefault(rank, seated) is not seated
            ):
                line.close()
        except (OSError, ValueError, KeyError, TypeError):
            connection.close()
        finally:
            self._strangers.release()

    def _location_of(self, rank: int) -> dict[str, Any]:
        """Returns a worker's host, and its rank among those there."""
        own = self._seated[rank]
        neighbours = [
            other
            for other, seated in sorted(self._seated.items())
            if (seated.host, seated.hostname) == (own.host, own.hostname)
        ]
        # A scheduler may have given each worker its own cores.
        sharing = [n for n in neighbours if set(self._seated[n].cores) & set(own.cores)]
        cores = len(own.cores) * len(neighbours) // max(1, len(sharing))
        host = f"[{own.host}]" if ":" in own.host else own.host
        return {
            "local_rank": neighbours.index(rank),
            "local_size": len(neighbours),
            "host": host,
            "cores": cores,
        }

    def _give_order(self, seated: _Seated, environ: dict[str, str]) -> None:
        kind, target, *_ = self._job.command
        with contextlib.suppress(OSError):  # `_listen` reports its loss
            if kind == "function":
                agent.send_file(seated.line, target)
            seated.line.send(
                "start",
                command=list(self._job.command),
                cwd=os.getcwd(),
                environ=environ,
                forwarded=forwarded_environ(),
            )

    def _listen(self, rank: int, seated: _Seated) -> None:
        """Takes an agent's messages, until it says that its worker has gone."""
        try:
            while True:
                message, data = seated.line.receive()
                if message["kind"] == "gone":
                    return
                self._take(rank, seated, message, data)
        except (EOFError, OSError, ValueError, KeyError) as error:
            if not seated.has_ended and not self._is_over:
                lost = failures.HOST_LOST
                if not isinstance(error, EOFError):
                    lost = f"RuntimeError: its agent says what it cannot: {shorten(error)}"
                if failures.read_failure(self._run_dir, rank) is None:  # its own record counts more
                    contract.write_failure(
                        self._run_dir, rank=rank, at=time.monotonic(), exit_code=1, traceback=lost
                    )
                self._take_end(rank, seated, 1)
        finally:
            seated.gone.set()
            self._close_streams(seated)

    def _take(self, rank: int, seated: _Seated, message: dict[str, Any], data: bytes) -> None:
        kind = message["kind"]
        if kind in seated.streams:
            _write_all(seated.streams[kind], data)
        elif kind == "failure":
            contract.write_failure(
                self._run_dir,
                rank=rank,
                at=time.monotonic() - float(message["age"]),
                exit_code=int(message["exit_code"]),
                traceback=data.decode("utf-8", "replace"),
                has_saved=message["has_saved"] is True,
                lost=None if message["lost"] is None else int(message["lost"]),
            )
        elif kind == "progress":
            path = os.path.join(self._run_dir, f"progress_{rank}")
            with contextlib.suppress(OSError), open(path, "w") as file:  # it is for show
                file.write(str(int(message["count"])))
        elif kind == "file":
            with open(os.path.join(self._run_dir, f"value_{rank}.pickle"), "ab") as value:
                value.write(data)
        elif kind == "ended":
            self._take_end(rank, seated, int(message["exit_code"]))

    def _take_end(self, rank: int, seated: _Seated, exit_code: int) -> None:
        seated.has_ended = True
        self._on_end(rank, exit_code)

    def _tell(self, is_meant: Callable[[_Seated], bool], kind: str, **fields: Any) -> None:
        for seated in list(self._seated.values()):
            if is_meant(seated):
                with contextlib.suppress(OSError):
                    seated.line.send(kind, **fields)

    def _all_gone(self) -> bool:
        if not self._run_dir:
            return True  # no worker was ever started, and nobody listens to the agents
        return all(seated.gone.is_set() for seated in self._seated.values())

    def _close_streams(self, seated: _Seated) -> None:
        while seated.streams:
            with contextlib.suppress(KeyError, OSError):
                os.close(seated.streams.popitem()[1])


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
