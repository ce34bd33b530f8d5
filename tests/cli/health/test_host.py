"""Are cores, memory and limits those of the container, of both kinds of groups?"""

from __future__ import annotations

import subprocess
import sys

import launching
import pytest

from tfdist.cli.health import host

_KIB = 1024


def _plant(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("files", "busy"),
    [
        ({}, 8.0),
        ({"sys/fs/cgroup/cpu.max": "max 100000\n"}, 8.0),
        ({"sys/fs/cgroup/cpu.max": "150000 100000\n"}, 1.5),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            2.0,
        ),
        (
            {
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            },
            8.0,
        ),
    ],
)
def test_cores(tmp_path, monkeypatch, files, busy):
    monkeypatch.setattr(host, "count_cores", lambda: 8)
    assert host.cores(_plant(tmp_path, files)) == (8, busy)


_MEMINFO = {"proc/meminfo": "MemTotal: 1000 kB\nMemAvailable: 600 kB\n"}


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, (1000 * _KIB, 600 * _KIB)),
        (
            {"sys/fs/cgroup/memory.max": "409600", "sys/fs/cgroup/memory.current": "102400"},
            (409600, 307200),
        ),
        ({"sys/fs/cgroup/memory.max": "max", "sys/fs/cgroup/memory.current": "1"},
         (1000 * _KIB, 600 * _KIB)),
        (
            {
                "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": "1",
            },
            (1000 * _KIB, 600 * _KIB),
        ),
    ],
)  # fmt: skip
def test_memory(tmp_path, files, expected):
    assert host.memory_bytes(_plant(tmp_path, _MEMINFO | files)) == expected


def test_without_proc_nothing_is_known(tmp_path):
    assert host.memory_bytes(tmp_path) == (0, 0)
    assert host.cpu_flags(tmp_path) == ()
    assert host.size_of(tmp_path / "dev" / "shm") is None


def test_what_the_processor_can_do(tmp_path):
    _plant(tmp_path, {"proc/cpuinfo": "processor : 0\nflags\t: fpu sse2 avx avx2 rdpid\n"})
    assert host.cpu_flags(tmp_path) == ("sse2", "avx", "avx2")


def test_limits_are_those_of_ulimit():
    code = "from tfdist.cli.health import host; print(host.limits())"
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n 333; exec {sys.executable} -c "{code}"'],
        env=launching.environ_with(), capture_output=True, text=True, timeout=60, check=True,
    )
    assert "'open files': 333" in done.stdout


def test_a_clock_that_is_late(tmp_path, monkeypatch):
    (tmp_path / "a.py").write_text("")
    assert host.secs_behind(tmp_path) < 60
    now = host.time.time()
    monkeypatch.setattr(host.time, "time", lambda: now - 7200)
    assert host.secs_behind(tmp_path) == pytest.approx(7200, abs=60)
