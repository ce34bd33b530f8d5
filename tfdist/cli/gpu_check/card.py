"""Which GPU is this, and how much of it does tfdist take?"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfdist.cli.gpu_check.rows import FOUND, LEFT_OUT, OK, WRONG, Row
from tfdist.cli.gpu_check.setting import Setting, physical_gpus
from tfdist.strategy import factory

_MIB = 2**20
# With growth a process takes what its context and a small product need.
_SHARE = 0.5


def rows(setting: Setting) -> Iterator[Row]:
    """Gives the rows of this part."""
    build: Any = tf.sysconfig.get_build_info()
    gpus = physical_gpus()
    versions = ", ".join(
        f"{name} {build[f'{name}_version']}" for name in ("cuda", "cudnn")
        if f"{name}_version" in build
    )
    yield Row(FOUND, "TensorFlow", f"{tf.__version__}, built for {versions or 'no GPU'}")
    for gpu in gpus:
        told: dict[str, Any] = tf.config.experimental.get_device_details(gpu)
        parts = [f"{key}={value}" for key, value in sorted(told.items())]
        yield Row(FOUND, gpu.name, ", ".join(parts))
    before = _used()
    for line in before:
        yield Row(FOUND, "nvidia-smi", line)
    strategy = factory.get_strategy(setting.one)
    with strategy.scope():
        total = float(tf.reduce_sum(tf.matmul(tf.ones([64, 64]), tf.ones([64, 64]))))
    yield Row(OK if total == 64.0**3 else WRONG, "a product", f"{total:g} of {64.0**3:g}")
    if not setting.is_gpu:
        yield Row(LEFT_OUT, "memory growth", "CPUs have none")
        return
    grows = tf.config.experimental.get_memory_growth(gpus[0])
    yield Row(OK if grows else WRONG, "memory growth", f"set by get_strategy: {grows}")
    for line in _used()[:1]:
        yield _taken(line)
    info = tf.config.experimental.get_memory_info("GPU:0")
    yield Row(FOUND, "TensorFlow's memory", f"{info['peak'] / _MIB:.0f} MiB at the peak")


def memory_mib() -> float:
    """Returns the memory of the first GPU in MiB, as nvidia-smi tells; 0 where it does not."""
    try:
        return float(_used()[0].split(",")[2].split()[0])
    except (IndexError, ValueError):
        return 0.0


def _taken(line: str) -> Row:
    """Judges the memory of the first GPU, by a line of nvidia-smi."""
    try:
        used, total = (float(part.split()[0]) for part in line.split(",")[1:3])
    except (IndexError, ValueError):
        return Row(LEFT_OUT, "memory in use", f"cannot be read in {line!r}")
    verdict = OK if used < _SHARE * total else WRONG
    text = f"{used:.0f} of {total:.0f} MiB, whoever uses them, after a small product"
    return Row(verdict, "memory in use", text)


def _used() -> list[str]:
    """Returns name, memory in use, whole memory and driver of each GPU, as nvidia-smi tells."""
    asked = "name,memory.used,memory.total,driver_version,pcie.link.gen.current"
    try:
        done = subprocess.run(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader"],
            capture_output=True, text=True, timeout=30, check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.strip().splitlines() if done.returncode == 0 else []
