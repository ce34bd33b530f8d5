"""Does a model train with its optimizer in slices in so much memory that it does not without?

    python scripts/memory_limit.py --megabytes=3000
    python scripts/memory_limit.py --megabytes=0            no limit: what each kind takes

It trains a transformer of 102 M parameters with Adam in float32 on two workers, first with
`sharded_optimizer=True`, then without, each worker in a control group (cgroup) of so much memory.
The kernel kills who needs more, after it has taken away what files could be read again. Linux as
root, with the memory controller of cgroup version 1 or 2 mounted under /sys/fs/cgroup. Exit code 0
if the one kind trains and the other is killed.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

from absl import app, flags
from benchmark_sharding import within

from tfdist import launch

_MEGABYTES = flags.DEFINE_integer("megabytes", 3000, "MiB of each worker; 0 for no limit")
_WIDTH = flags.DEFINE_integer("width", 768, "numbers a position of the transformer; 12 divides it")
_DEPTH = flags.DEFINE_integer("depth", 14, "its blocks")
_ARENAS = flags.DEFINE_string("arenas", "2", "MALLOC_ARENA_MAX of the workers")

_MOUNTED = pathlib.Path("/sys/fs/cgroup")


def main(argv: list[str]) -> None:
    """Trains both ways, and says how each ended."""
    if len(argv) > 1:
        raise app.UsageError(f"This takes flags alone, not {argv[1:]}.")
    limit = _MEGABYTES.value
    came_through = {}
    for is_sharded in (True, False):
        kind = "in slices" if is_sharded else "whole"
        with _groups(2, limit) as groups:
            try:
                found = launch.run(
                    _train, workers=2, threads=1, timeout_secs=900,
                    args=(groups, is_sharded, _WIDTH.value, _DEPTH.value),
                    env={"TF_CPP_MIN_LOG_LEVEL": "2", "MALLOC_ARENA_MAX": _ARENAS.value},
                )
            except RuntimeError as error:
                came_through[is_sharded] = False
                print(f"states {kind}: failed. {str(error).splitlines()[0]}", flush=True)
                continue
        came_through[is_sharded] = True
        told = "; ".join(f"{peak:.0f} MiB at the peak, {anonymous:.0f} of them without files"
                         for _, peak, anonymous in found)  # fmt: skip
        print(f"states {kind}: {found[0][0] / 1e6:.0f} M parameters trained ({told})", flush=True)
    sys.exit(0 if limit == 0 or came_through == {True: True, False: False} else 1)


def _train(groups: list[str], is_sharded: bool, width: int, depth: int) -> tuple[int, float, float]:
    """Runs on each worker: joins its group and trains.

    Returns:
        The parameters, and the most MiB of the process, with files and without.
    """
    import threading

    import tfdist

    cluster = tfdist.detect_cluster()
    group = pathlib.Path(groups[cluster.rank if cluster else 0])
    (group / "cgroup.procs").write_text(str(os.getpid()))
    most, is_over = [0.0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            most[0] = max(most[0], _anonymous())

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        parameters, peak = within(None, is_sharded, width=width, depth=depth)
    finally:
        is_over.set()
        thread.join()
    return parameters, peak, most[0]


def _anonymous() -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    [found] = [line.split()[1] for line in lines if line.startswith("RssAnon:")]
    return int(found) / 2**10


@contextlib.contextmanager
def _groups(number: int, megabytes: int) -> Iterator[list[str]]:
    """Makes control groups, and takes them away when their processes have ended."""
    root, limits = _controller()
    folders = [root / f"tfdist-{os.getpid()}-{rank}" for rank in range(number)]
    try:
        for folder in folders:
            folder.mkdir()
            for name, value in limits.items():
                if megabytes and (folder / name).exists():
                    (folder / name).write_text(str(value if value == 0 else megabytes * 2**20))
        yield [str(folder) for folder in folders]
    finally:
        for folder in folders:
            with contextlib.suppress(OSError):  # a process of it is just ending
                folder.rmdir()


def _controller() -> tuple[pathlib.Path, dict[str, Any]]:
    """Returns where groups with a limit of memory can be made, and the files of the limits."""
    version_1 = _MOUNTED / "memory"
    if (version_1 / "memory.limit_in_bytes").exists() and os.access(version_1, os.W_OK):
        return version_1, {"memory.limit_in_bytes": 1, "memory.memsw.limit_in_bytes": 1}
    with contextlib.suppress(OSError):
        if "memory" in (_MOUNTED / "cgroup.subtree_control").read_text().split():
            return _MOUNTED, {"memory.max": 1, "memory.swap.max": 0}
    raise SystemExit(
        f"No control group with a limit of memory can be made under {_MOUNTED}. Run it as root, on "
        "Linux, where the memory controller is mounted there."
    )


if __name__ == "__main__":
    app.run(main)
