"""Where is the compiler for TPUs? In its own virtual environment, which is made and pinned here.

The compiler is the one inside libtpu, which real TPUs use too, called through jaxlib. It needs
another libtpu than tensorflow-tpu, and private names of exactly these releases.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
from collections.abc import Iterator

#: What is installed; the extra `tpu-preflight` says the same.
PINS = ("jax[tpu]==0.10.2", "jaxlib==0.10.2", "libtpu==0.0.42.1")
_INSTALL_SECS = 1800.0
_MINIMUM = (3, 11)  # what these releases of jax support


def compiler_python(
    *, venv: str | os.PathLike[str] | None = None, cache_dir: str | os.PathLike[str] | None = None
) -> pathlib.Path:
    """Returns the Python that can run the compiler; makes its environment if it is missing.

    Args:
        venv: Folder of an environment with the extra `tpu-preflight`, which is used as it is.
        cache_dir: Folder in which environments are made; "~/.cache/tfdist" by default.

    Raises:
        ValueError: `venv` holds no Python.
        RuntimeError: The environment cannot be made.
    """
    if venv is not None:
        python = _python_of(pathlib.Path(venv))
        if not python.exists():
            raise ValueError(
                f"venv={os.fspath(venv)!r} holds no {python.name}. Make it with `python -m venv`"
                " and pip install 'tfdist[tpu-preflight]' into it, or leave venv out."
            )
        return python
    folder = _cache(cache_dir) / _name()
    with _locked(folder.with_suffix(".lock")):
        if not (folder / "ready").exists():
            _make(folder)
    return _python_of(folder)


def _cache(cache_dir: str | os.PathLike[str] | None) -> pathlib.Path:
    if cache_dir is not None:
        return pathlib.Path(cache_dir).absolute()
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "tfdist"


def _name() -> str:
    """Names an environment by its pins, so that new pins make a new environment."""
    digest = hashlib.sha256(" ".join(PINS).encode()).hexdigest()[:12]
    return f"tpu-compiler-{digest}-py{sys.version_info[0]}.{sys.version_info[1]}"


def _python_of(folder: pathlib.Path) -> pathlib.Path:
    return folder / "bin" / "python"


def _make(folder: pathlib.Path) -> None:
    if sys.version_info[:2] < _MINIMUM:
        raise RuntimeError(
            f"The compiler for TPUs needs Python {_MINIMUM[0]}.{_MINIMUM[1]} or newer, and this is"
            f" {sys.version_info[0]}.{sys.version_info[1]}. Make an environment with a newer one,"
            f" pip install {' '.join(PINS)} into it, and name it by venv=."
        )
    shutil.rmtree(folder, ignore_errors=True)  # left by an interrupted attempt
    _run([sys.executable, "-m", "venv", os.fspath(folder)])
    _run([os.fspath(_python_of(folder)), "-m", "pip", "install", "--quiet", *PINS])
    (folder / "ready").touch()


def run_tool(
    command: list[str], *, timeout_secs: float, cwd: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs a program without input; its two output streams become one text."""
    return subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=timeout_secs,
        check=False,
        cwd=cwd,
    )


def _run(command: list[str]) -> None:
    done = run_tool(command, timeout_secs=_INSTALL_SECS)
    if done.returncode:
        raise RuntimeError(
            f"The environment of the compiler for TPUs could not be made: `{' '.join(command)}`"
            f" ended with exit code {done.returncode}: {done.stdout.strip()[-500:]}. Check the"
            " package index and the disk, or name a finished environment by venv=."
        )


@contextlib.contextmanager
def _locked(path: pathlib.Path) -> Iterator[None]:
    """Lets one process at a time into a `with` block; a process that dies lets the next one in."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
