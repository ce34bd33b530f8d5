"""What can happen to a worker?  What chaos.py does to one, and what the launcher has to say of it.

Of a disturbance that ends an attempt the summary has to name the right worker, in words that
`blames` knows. One that is harmless must not end it at all.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import resource
import signal
import socket
import threading
import time

HARMLESS = {
    "pause": "SIGSTOP, and SIGCONT a second later",
    "fork": "a process is forked that lives on, and one that is ended by SIGTERM, as pools are",
    "junk": "junk is sent to each port at which workers and launcher listen",
    "silent": "ten connections to each such port are held open, and say nothing",
}
FATAL = {
    "kill": "SIGKILL: while it starts, in the midst of a step or an epoch, while it saves",
    "term": "SIGTERM to one worker alone: all save at the same step and leave",
    "stop": "SIGSTOP: it hangs, and is missed",
    "disk": "no more room for a checkpoint, on the chief",
    "truncate": "SIGKILL, and a file of the newest checkpoint is cut short before the next attempt",
}
ELASTIC = {
    "lose": "its place is taken away, and SIGKILL",
    "take": "a place is taken away",
    "gain": "a place is given back",
}
ALL = HARMLESS | FATAL | ELASTIC

_ROOM_BYTES = 20_000  # of a full disk: too little for the weights, enough for an error's text
_PAUSE_SECS = 1.0
_JUNK = (b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"\0" * 70_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
_LISTENING = "0A"  # a state in /proc/net/tcp


def blames(how: str, rank: int, said: str) -> bool:
    """Tells whether the launcher has said the right thing of what was done to a worker.

    Args:
        how: What was done; one of FATAL or ELASTIC.
        rank: The worker.
        said: What the launcher said of the attempt's end.
    """
    if how == "term":
        return "preempted: a worker was told to leave; the run is saved" in said
    if how in ("take", "gain"):
        return "the number of workers changes: there are places for" in said
    first = {"stop": "(failed first|was lost to|held up the others)"}.get(how, "failed first")
    cause = {"stop": "", "disk": "could not be written to"}.get(how, "killed by SIGKILL")
    found = re.search(rf"worker {rank} {first}[^\n]*", said)
    return found is not None and (how == "disk" or cause in found[0]) and cause in said


def act(how: str, pid: int, *, folder: pathlib.Path) -> None:
    """Does something to a worker.

    Args:
        how: What; no change of places.
        pid: Of the worker's process.
        folder: Where workers look for what they should do themselves; see `fork_if_asked`.
    """
    if how == "disk":
        _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (_ROOM_BYTES, most))
    elif how == "fork":
        (folder / f"fork-{pid}").touch()
    elif how in ("junk", "silent"):
        for port in listening_ports([os.getpid(), *_workers_in(folder)]):
            threading.Thread(target=_visit, args=(port, how == "junk"), daemon=True).start()
    elif how == "pause":
        os.kill(pid, signal.SIGSTOP)
        time.sleep(_PAUSE_SECS)
        os.kill(pid, signal.SIGCONT)
    else:
        numbers = {"term": signal.SIGTERM, "stop": signal.SIGSTOP}
        os.kill(pid, numbers.get(how, signal.SIGKILL))


def fork_if_asked(folder: pathlib.Path) -> None:
    """Forks, in a worker that was asked to, a process that lives on and one that is ended."""
    note = folder / f"fork-{os.getpid()}"
    if not note.exists():
        return
    note.unlink()
    for lives_on in (True, False):
        child = os.fork()
        if child == 0:
            time.sleep(8)
            os._exit(0)
        if not lives_on:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)


def living(folder: pathlib.Path) -> dict[int, int]:
    """Returns the process of each worker that has left word of itself and lives, by rank."""
    found = {}
    for note in folder.glob("worker-*"):
        with contextlib.suppress(OSError, ValueError):
            pid = int(note.read_text())
            os.kill(pid, 0)
            found[int(note.name.rpartition("-")[2])] = pid
    return found


def _workers_in(folder: pathlib.Path) -> list[int]:
    return list(living(folder).values())


def listening_ports(pids: list[int]) -> list[int]:
    """Returns the ports of IPv4 and IPv6 at which these processes listen."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):  # it has ended
            for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    inodes.add(os.readlink(link))
    ports = set()
    for table in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == _LISTENING and f"socket:[{fields[9]}]" in inodes:
                ports.add(int(fields[1].rpartition(":")[2], 16))
    return sorted(ports)


def _visit(port: int, is_junk: bool) -> None:
    """Sends junk to a port, or holds ten connections open without a word."""
    connections = []
    for junk in _JUNK if is_junk else [b""] * 10:
        with contextlib.suppress(OSError):
            connection = socket.create_connection(("127.0.0.1", port), timeout=5)
            connections.append(connection)
            connection.sendall(junk)
    time.sleep(0.5 if is_junk else 10)
    for connection in connections:
        connection.close()
