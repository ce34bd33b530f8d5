"""What do many workers cost the chief?  Up to a thousand of them, simulated, without TensorFlow.

    python scripts/many_workers.py                                  64, 250 and 1,000 of them
    python scripts/many_workers.py --workers=64,1000 --suite=heartbeat
    python scripts/many_workers.py --suite=launcher --workers=64,256

- roll_call: all join a roll call, over TCP; the chief holds it.
- heartbeat: all connect to the chief, and beat for some seconds; then one ends.
- agreement: the chief compares a call of `fit` with the others', alike and not.
- ledger: which rows each of them trains on in an epoch, and that each row is trained on once.
- launcher: real processes on this machine, which meet and end: time, memory, files.

For each number is printed what the chief's process took, and at the end how that grows: 1 is as
fast as the number of workers. Bytes of a roll call grow faster, since each worker is told the
addresses of all; they are few.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from absl import app, flags

from tfdist.cluster import side_channel
from tfdist.cluster.heartbeat import Heart, Loss
from tfdist.cluster.roll_call import RollCall

_SECRET = b"of a simulation"
_PLAYERS = str(pathlib.Path(__file__).with_name("many_workers_players.py"))
_PROCESSES = 4  # that play the workers
_BEATS_SECS = 5.0


@dataclasses.dataclass(frozen=True)
class Load:
    """What a number of workers cost the chief.

    Attributes:
        workers: Their number.
        cpu_secs: What the chief's process computed, in seconds.
        messages: That it sent and received.
        num_bytes: Of these.
        more: What else was found, in words.
    """

    workers: int
    cpu_secs: float
    messages: int = 0
    num_bytes: int = 0
    more: str = ""

    def __str__(self) -> str:
        told = f"{self.workers:5d} workers: {1000 * self.cpu_secs:8.1f} ms of the chief's processor"
        if self.messages:
            told += f", {self.messages} messages, {self.num_bytes / 1e6:.2f} MB"
        return f"{told}; {self.more}" if self.more else told


def growth(loads: Sequence[Load], of: Callable[[Load], float]) -> float:
    """Returns the power of the number of workers with which something grows.

    Args:
        loads: Of several numbers of workers; the least and the most count.
        of: Takes a load; returns the amount.
    """
    first, last = loads[0], loads[-1]
    amounts = max(of(first), 1e-9), max(of(last), 1e-9)
    return math.log(amounts[1] / amounts[0]) / math.log(last.workers / first.workers)


class _Counted:
    """Counts what this process sends and receives over sockets, inside of a `with` block."""

    def __init__(self) -> None:
        self.messages = self.num_bytes = 0
        self._known = {name: getattr(socket.socket, name) for name in ("send", "sendall", "recv")}

    def __enter__(self) -> _Counted:
        for name, known in self._known.items():
            setattr(socket.socket, name, self._counting(name, known))
        return self

    def __exit__(self, *_: object) -> None:
        for name in self._known:
            delattr(socket.socket, name)  # what it inherits is seen again

    def _counting(self, name: str, known: Any) -> Any:
        def counted(own: Any, data: Any, *rest: Any) -> Any:
            found = known(own, data, *rest)
            count = len(found) if name == "recv" else len(data)
            if count > 1:  # a single byte wakes a thread of this process
                self.messages += 1
                self.num_bytes += count
            return found

        return counted


@contextlib.contextmanager
def _players(task: str, size: int, address: str) -> Iterator[list[subprocess.Popen[str]]]:
    """Starts processes that play the workers, each a part of the ranks."""
    count = min(_PROCESSES, size)
    bounds = [i * size // count for i in range(count + 1)]
    started = [
        subprocess.Popen(
            [sys.executable, _PLAYERS, task, str(first), str(last), str(size), address],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for first, last in zip(bounds, bounds[1:], strict=False)
    ]
    try:
        yield started
    finally:
        for process in started:
            process.communicate(timeout=60)


def _tell(process: subprocess.Popen[str], what: str) -> None:
    process.stdin.write(f"{what}\n")  # type: ignore[union-attr]
    process.stdin.flush()  # type: ignore[union-attr]


def _require(is_right: Any, told: str) -> None:
    if not is_right:
        raise RuntimeError(f"The measurement is void: {told}. Run it again, on a machine at rest.")


# ------------------------------------------------------------------------------- what is measured


def roll_call(size: int) -> Load:
    """Returns what a roll call costs that so many workers join at the same moment."""
    with _Counted() as counted, RollCall(size=size, secret=_SECRET, timeout_secs=120) as server:
        with _players("roll_call", size, server.address) as players:
            for process in players:  # they are ready, and go together
                process.stdout.readline()  # type: ignore[union-attr]
            start, cpu = time.monotonic(), time.process_time()
            for process in players:
                _tell(process, "go")
            addresses = server.result(timeout_secs=120)
            secs, cpu = time.monotonic() - start, time.process_time() - cpu
    _require(len(set(addresses)) == size, f"there are {len(set(addresses))} addresses")
    told = f"all there after {secs:.2f} s"
    return Load(size, cpu, counted.messages, counted.num_bytes, told)


def beats(size: int) -> Load:
    """Returns what a second of heartbeats costs, and how soon the loss of one is seen."""
    listener = side_channel.open_listener("127.0.0.1")
    port = listener.getsockname()[1]
    losses: list[tuple[float, Loss]] = []
    is_lost = threading.Event()

    def on_loss(loss: Loss) -> None:
        losses.append((time.monotonic(), loss))
        is_lost.set()

    with _players("beats", size - 1, str(port)) as players, listener:
        for process in players:
            _tell(process, "go")
        found = side_channel.accept(listener, size=size, secret=_SECRET, timeout_secs=60)
        _require(len(found) == size - 1, f"{len(found)} of {size - 1} came")
        heart = Heart(found, rank=0, silence_secs=10, on_loss=on_loss)
        with _Counted() as counted, heart:
            with heart.run():
                time.sleep(1.0)
                before, cpu = (counted.messages, counted.num_bytes), time.process_time()
                start = time.monotonic()
                time.sleep(_BEATS_SECS)
                secs, cpu = time.monotonic() - start, time.process_time() - cpu
                after = counted.messages, counted.num_bytes
                _require(not losses, f"somebody was lost: {losses}")
                ended = time.monotonic()
                _tell(players[0], "end one")
                _require(is_lost.wait(10), "the loss of one was not seen")
    at, loss = losses[0]
    told = f"a second; one that ends is seen after {at - ended:.2f} s as worker {loss.rank}"
    sent, size_of_all = ((b - a) / secs for a, b in zip(before, after, strict=True))
    return Load(size, cpu / secs, round(sent), round(size_of_all), told)


def agreement(size: int) -> Load:
    """Returns what it costs to compare a call of `fit`, where one worker has another."""
    import numpy as np

    from tfdist.communication.agreement import require_alike

    class Simulated:
        """The chief of so many workers, of which the last one was given another fact."""

        has_others, calls, is_other = True, 0, 0

        def gather(self, number: int, what: str) -> Any:
            self.calls += 1
            found = np.full([size, 1], number, np.int64)
            found[-1] += self.is_other
            return found

        def from_chief(self, payload: bytes) -> bytes:
            return payload

        def payloads(self, own: bytes) -> list[bytes]:
            self.calls += 1
            other = b'["epochs", 0]' if self.calls == 2 else b"3"
            return [own] * (size - 1) + [other]

    facts = {"epochs": 2, "batch_size": 32, "model": {"layers": [{"units": n} for n in range(50)]}}
    given: dict[str, Any] = {"what": "were given different data", "cure": "Give the same."}
    workers: Any = Simulated()
    start = time.process_time()
    require_alike(facts, workers, **given)
    alike = time.process_time() - start
    workers.calls, workers.is_other = 0, 1
    start = time.process_time()
    try:
        require_alike(facts, workers, **given)
    except ValueError as error:
        told = str(error)
    differ = time.process_time() - start
    _require(f"worker {size - 1}: epochs is 3" in told, told)
    return Load(size, differ, 0, 0, f"{1000 * alike:.1f} ms where all are alike")


def ledger(size: int) -> Load:
    """Returns what it costs a worker to know its rows, where each has as many whatever the size."""
    import numpy as np

    from tfdist.communication.share import Share
    from tfdist.data.order import epoch_order, worker_examples

    count, batch = 64 * size + 7, 4 * size + 1
    used = np.zeros(count, np.int64)
    start = time.process_time()
    order = epoch_order(count, seed=0, epoch=1)
    once = time.process_time() - start
    for rank in range(size):
        np.add.at(used, worker_examples(order, batch_size=batch, share=Share(rank, 1, size)), 1)
    each = (time.process_time() - start - once) / size
    _require((used == 1).all(), f"rows were used {np.unique(used)} times")
    return Load(size, once + each, 0, 0, f"each of {count} rows is used once")


def launcher(size: int) -> Load:
    """Returns what it costs to launch so many processes that meet, and end."""
    program = (
        "import os\n"
        "from tfdist.cluster.detection import detect_cluster\n"
        "from tfdist.cluster.meeting import meet\n"
        "meet(detect_cluster(os.environ))\n"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "meets.py")
        path.write_text(program)
        start = time.monotonic()
        process = subprocess.Popen(
            [sys.executable, "-m", "tfdist.launch", f"--workers={size}", str(path)],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        )
        peak = {"files": 0, "MB": 0.0, "cpu": 0.0, "MB of all": 0.0}
        while process.poll() is None:
            now = _looked_at(process.pid)
            peak = {name: max(value, now.get(name, 0)) for name, value in peak.items()}
            time.sleep(0.05)
        secs = time.monotonic() - start
        _require(process.returncode == 0, process.communicate()[1][-2000:])
    told = (
        f"{secs:.1f} s in all, {peak['files']:.0f} files and {peak['MB']:.0f} MB of the launcher, "
        f"{peak['MB of all']:.0f} MB of all processes"
    )
    return Load(size, peak["cpu"], 0, 0, told)


def _looked_at(pid: int) -> dict[str, float]:
    """Returns the files, memory and processor time of a process, and the memory of its children."""
    try:
        folder = pathlib.Path("/proc", str(pid))
        files = len(os.listdir(folder / "fd"))
        times = (folder / "stat").read_text().rpartition(")")[2].split()[11:13]
        children = [
            child for task in (folder / "task").iterdir()
            for child in (task / "children").read_text().split()
        ]
        own, others = _resident_mb(str(pid)), sum(map(_resident_mb, children))
    except (OSError, IndexError):
        return {}
    cpu = sum(map(int, times)) / os.sysconf("SC_CLK_TCK")
    return {"files": files, "MB": own, "cpu": cpu, "MB of all": own + others}


def _resident_mb(pid: str) -> float:
    """Returns what memory would be free if a process ended: what it shares counts for others."""
    try:
        text = pathlib.Path("/proc", pid, "smaps_rollup").read_text()
    except OSError:
        return 0.0
    lines = [line.split() for line in text.splitlines() if line.startswith("Private_")]
    return sum(int(line[1]) for line in lines) / 1024


SUITES: dict[str, Callable[[int], Load]] = {
    "roll_call": roll_call, "heartbeat": beats, "agreement": agreement, "ledger": ledger,
    "launcher": launcher,
}  # fmt: skip


def measure(suite: str, sizes: Sequence[int]) -> list[Load]:
    """Prints and returns what each number of workers costs, and how that grows."""
    print(f"{suite}:", flush=True)
    loads = []
    for size in sizes:
        loads.append(SUITES[suite](size))
        print(f"  {loads[-1]}", flush=True)
    if len(loads) > 1:
        print(f"  processor time grows with power {growth(loads, lambda load: load.cpu_secs):.2f}")
        if loads[0].messages:
            print(f"  messages grow with power {growth(loads, lambda load: load.messages):.2f}")
    return loads


def main(argv: Sequence[str]) -> None:
    """Runs the suites."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; flags are given as --name=value.")
    for suite in _FLAGS.suite:
        measure(suite, [int(size) for size in _FLAGS.workers])


_FLAGS = flags.FLAGS

if __name__ == "__main__":
    flags.DEFINE_list("workers", ["64", "250", "1000"], "Numbers of workers, from the least up.")
    flags.DEFINE_list("suite", [name for name in SUITES if name != "launcher"], "What to measure.")
    app.run(main)
