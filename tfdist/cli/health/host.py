"""What may this process use of its host?  Cores, memory and limits, a container's where it is one.

Read from /proc and /sys, which other systems than Linux lack: what cannot be known is 0 or None.
"""

from __future__ import annotations

import os
import pathlib
import shutil
import time

from tfdist.launch.job import count_cores

# Those by which TensorFlow chooses its kernels, or without which it does not run.
_FLAGS = ("sse2", "avx", "avx2", "avx512f", "avx512_vnni", "amx_tile")
_NO_LIMIT = 1 << 60  # bytes; the old kind of groups has no word for none, but a number like this
_KIB = 1024


def cores(root: pathlib.Path) -> tuple[int, float]:
    """Returns the cores that this process may run on, and how many its group may keep busy."""
    allowed = count_cores()
    quota = _text(root, "sys/fs/cgroup/cpu.max").split()
    if len(quota) != 2:
        quota = [
            _text(root, f"sys/fs/cgroup/cpu/cpu.cfs_{name}_us") for name in ("quota", "period")
        ]
    try:
        busy = int(quota[0]) / int(quota[1])
    except (ValueError, ZeroDivisionError):  # "max", or no such group
        return allowed, float(allowed)
    return allowed, min(float(allowed), busy) if busy > 0 else float(allowed)


def memory_bytes(root: pathlib.Path) -> tuple[int, int]:
    """Returns the memory of this process's container or host, and what of it is available."""
    lines = dict(
        line.split(":", 1) for line in _text(root, "proc/meminfo").splitlines() if ":" in line
    )
    whole, available = (
        int(lines.get(name, "0").split()[0]) * _KIB for name in ("MemTotal", "MemAvailable")
    )
    for most_in, used_in in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        most, used = (_text(root, f"sys/fs/cgroup/{name}") for name in (most_in, used_in))
        if most.isdigit() and used.isdigit() and int(most) < min(whole or _NO_LIMIT, _NO_LIMIT):
            return int(most), max(0, min(available, int(most) - int(used)))
    return whole, available


def cpu_flags(root: pathlib.Path) -> tuple[str, ...]:
    """Returns what the processor can do, as far as it matters here."""
    for line in _text(root, "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "flags":
            has = set(value.split())
            return tuple(flag for flag in _FLAGS if flag in has)
    return ()


def limits() -> dict[str, int]:
    """Returns what this process may have at once, as `ulimit` says; -1 for no limit."""
    try:
        import resource
    except ImportError:  # Windows has no such limits
        return {}
    names = {"open files": resource.RLIMIT_NOFILE, "processes": resource.RLIMIT_NPROC}
    found = {name: resource.getrlimit(number)[0] for name, number in names.items()}
    return {name: -1 if soft == resource.RLIM_INFINITY else soft for name, soft in found.items()}


def size_of(folder: pathlib.Path) -> int | None:
    """Returns the size of a folder's file system; None where the folder is not there."""
    return shutil.disk_usage(folder).total if folder.is_dir() else None


def secs_behind(package: pathlib.Path) -> float:
    """Returns how far the clock is behind the newest file of an installed package, in seconds."""
    newest = max(
        (os.path.getmtime(file) for file in package.glob("*.py")), default=0.0
    )
    return max(0.0, newest - time.time())


def _text(root: pathlib.Path, path: str) -> str:
    try:
        return (root / path).read_text().strip()
    except OSError:
        return ""
