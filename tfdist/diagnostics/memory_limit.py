"""How much memory does this process have, and how much may it take?  From /proc, on Linux.

On the CPU nothing is raised when memory runs out: the system kills the process. Under `limited` an
allocation fails instead, and TensorFlow raises ResourceExhaustedError, or aborts.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

_STATUS = pathlib.Path("/proc/self/status")
_MEMINFO = pathlib.Path("/proc/meminfo")
_CGROUP = pathlib.Path("/sys/fs/cgroup")
_KIB = 1024


def resident_bytes() -> int:
    """Returns the bytes of memory that this process has now."""
    return _kib_of(_STATUS, "VmRSS") * _KIB


def peak_resident_bytes() -> int:
    """Returns the most bytes of memory that this process has had so far."""
    return _kib_of(_STATUS, "VmHWM") * _KIB


def available_bytes() -> int | None:
    """Returns the bytes that a new process could take; None if unknown (not on Linux)."""
    if not _MEMINFO.exists():
        return None
    found = [_kib_of(_MEMINFO, "MemAvailable") * _KIB]
    try:  # a container may have less than its host
        most = int((_CGROUP / "memory.max").read_text())
        found.append(most - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no such group, or "max"
        pass
    return max(0, min(found))


@contextlib.contextmanager
def limited(limit_bytes: int | None) -> Iterator[None]:
    """Limits the total memory of this process inside a `with` block.

    Args:
        limit_bytes: Bytes; None for no limit.

    Raises:
        ValueError: There is no such limit here, or the process has more already.
    """
    if limit_bytes is None:
        yield
        return
    if not _STATUS.exists():
        raise ValueError(
            f"memory_limit_bytes={limit_bytes!r} can be kept on Linux alone. Leave it out."
        )
    import resource

    has = resident_bytes()
    if has >= limit_bytes:
        raise ValueError(
            f"memory_limit_bytes={limit_bytes!r} is less than the {has} bytes that the process "
            "has before the first step. Give more."
        )
    # The system limits reserved memory, which is more than what is in use, so the limit is what is
    # reserved now, plus what may still be added.
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    most = _kib_of(_STATUS, "VmData") * _KIB + limit_bytes - has
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _kib_of(path: pathlib.Path, name: str) -> int:
    try:
        lines = path.read_text().splitlines()
    except FileNotFoundError:
        raise RuntimeError(
            f"{path} is missing, from which memory is read. Measure memory on Linux."
        ) from None
    [line] = [line for line in lines if line.startswith(f"{name}:")]
    return int(line.split()[1])
