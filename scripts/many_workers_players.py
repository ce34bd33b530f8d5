"""What do the workers do that many_workers.py simulates?  Many of them in a process.

    python scripts/many_workers_players.py TASK FIRST LAST SIZE ADDRESS
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import sys
import threading
import time
from typing import Any

from tfdist.cluster import messages, side_channel
from tfdist.cluster.roll_call_client import join

_SECRET = b"of a simulation"
_LINE = messages.encode({"state": [1, 0, 0], "losses": [], "place": [3, "steps of fit"]})


def play_roll_call(ranks: range, size: int, address: str) -> None:
    """Joins a roll call as each of the ranks, all at the moment at which a line comes."""
    go = threading.Event()

    def play(rank: int) -> None:
        go.wait()
        facts = {"python": "3.11", "flags": ["--epochs=3"]}
        join(address, rank=rank, size=size, secret=_SECRET, facts=facts, timeout_secs=100)

    threads = [threading.Thread(target=play, args=(rank,)) for rank in ranks]
    for thread in threads:
        thread.start()
    print("ready", flush=True)
    sys.stdin.readline()
    go.set()
    for thread in threads:
        thread.join()


def play_beats(ranks: range, port: int) -> None:
    """Beats as each of the ranks; ends one of them for each line that comes, and then all."""
    sys.stdin.readline()
    selector = selectors.DefaultSelector()
    selector.register(sys.stdin, selectors.EVENT_READ)
    held = [side_channel.connect("127.0.0.1", port, rank=r, secret=_SECRET) for r in ranks]
    for connection in held:
        connection.setblocking(False)
        selector.register(connection, selectors.EVENT_READ, connection)
    began, sent = time.monotonic(), 0
    while held:
        # Spread over each second, as those of workers that began at different moments.
        due = int((time.monotonic() - began) * len(held))
        for index in range(sent, due):
            with contextlib.suppress(OSError):
                held[index % len(held)].send(_LINE)
        sent = due
        for key, _ in selector.select(0.005):
            if key.data is not None:
                if _has_ended(key.data):
                    return
            elif sys.stdin.readline():
                selector.unregister(held[0])
                held.pop(0).close()
            else:
                return


def _has_ended(connection: socket.socket) -> bool:
    try:
        return not connection.recv(65536)
    except BlockingIOError:
        return False
    except OSError:
        return True


def main(task: str, first: str, last: str, *rest: Any) -> None:
    """Plays the workers from number `first` up to `last`."""
    if task == "roll_call":
        play_roll_call(range(int(first), int(last)), int(rest[0]), rest[1])
    else:
        play_beats(range(int(first) + 1, int(last) + 1), int(rest[1]))


if __name__ == "__main__":
    main(*sys.argv[1:])
