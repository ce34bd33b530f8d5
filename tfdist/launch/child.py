"""What runs first inside a worker: the roll call, then the user's program or function.

    python -m tfdist.launch.child script PATH ARGS      as `python PATH ARGS` would
    python -m tfdist.launch.child module NAME ARGS      as `python -m NAME ARGS` would
    python -m tfdist.launch.child function FILE         a call that call.py has written

Only light modules are imported here; the program imports what it needs.
"""

from __future__ import annotations

import contextlib
import faulthandler
import io
import json
import os
import runpy
import signal
import sys
import time
import traceback
import types
from collections.abc import Callable, Sequence
from importlib.machinery import SourceFileLoader
from typing import NoReturn

from tfdist.cluster import announcement, contract, detection, roll_call_client
from tfdist.cluster.contract import write_failure
from tfdist.launch import job

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h


def main() -> None:
    """Runs this worker."""
    kind, target, *arguments = sys.argv[1:]
    _end_with_launcher()
    faulthandler.register(signal.SIGUSR2, all_threads=True)  # to see where it hangs
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # it is a pipe, but people watch the output
    try:
        _join_roll_call(kind, target, arguments)
    except RuntimeError as error:
        print(f"tfdist: {error}", file=sys.stderr)
        _write_failure(f"RuntimeError: {error}", exit_code=1)
        raise SystemExit(1) from None
    _run_guarded(lambda: _RUN[kind](target, arguments))


def _end_with_launcher() -> None:
    """Makes the system kill this process when the launcher dies, for whatever reason."""
    launcher = os.environ.get(contract.LAUNCHER_PID)
    if launcher is None:
        return
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(launcher):
        raise SystemExit(f"tfdist: the launcher, process {launcher}, has gone")


def _join_roll_call(kind: str, target: str, arguments: Sequence[str]) -> None:
    """Meets the others, and puts their addresses into this process's environment."""
    environ = os.environ
    script = target if kind == "script" and os.path.isfile(target) else None
    addresses = roll_call_client.join(
        environ[contract.RENDEZVOUS],
        rank=int(environ[contract.RANK]),
        size=int(environ[contract.SIZE]),
        secret=environ[contract.SECRET].encode(),
        host=environ[contract.HOST],
        facts={
            **announcement.gather_facts(script=script, flags=arguments),
            "threads": environ[contract.THREADS],
        },
        timeout_secs=float(environ[contract.ROLL_CALL_SECS]),
    )
    environ[contract.ADDRESSES] = ",".join(addresses)
    cluster = detection.detect_cluster(environ)
    if cluster is not None and cluster.size > 1:
        environ["TF_CONFIG"] = json.dumps(cluster.to_tf_config())


# ------------------------------------------------------------------------------- the user's program


def run_script(path: str, arguments: Sequence[str]) -> None:
    """Runs a file as the real `__main__`, so that its threads and exit functions still find it."""
    sys.argv = [path, *arguments]
    if not os.path.isfile(path):  # a folder or zip file with a __main__.py
        runpy.run_path(path, run_name="__main__")
        return
    if not getattr(sys.flags, "safe_path", False):
        sys.path[0] = os.path.dirname(os.path.realpath(path))
    full_path = os.path.abspath(path)
    main_module = types.ModuleType("__main__")
    main_module.__file__ = full_path
    main_module.__loader__ = SourceFileLoader("__main__", full_path)
    main_module.__dict__["__builtins__"] = __builtins__
    sys.modules["__main__"] = main_module
    with io.open_code(full_path) as file:
        code = compile(file.read(), full_path, "exec", dont_inherit=True)
    exec(code, main_module.__dict__)


def run_module(name: str, arguments: Sequence[str]) -> None:
    sys.argv = [name, *arguments]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


def _run_function(path: str, arguments: Sequence[str]) -> None:
    from tfdist.launch import call

    call.answer(path, run_dir=os.environ[contract.RUN_DIR], rank=int(os.environ[contract.RANK]))


_RUN: dict[str, Callable[[str, Sequence[str]], None]] = {
    "script": run_script,
    "module": run_module,
    "function": _run_function,
}


# -------------------------------------------------------------------------------------- how it ends


def _run_guarded(body: Callable[[], None]) -> None:
    """Runs the program, and records at once an exception that escapes."""
    try:
        body()
    except SystemExit as error:
        if error.code not in (None, 0):
            has_saved = isinstance(error, contract.Saved)
            _write_failure(_format(error), exit_code=_exit_code(error), has_saved=has_saved)
        raise
    except BaseException as error:
        _write_failure(_format(error), exit_code=1)
        _end_as_python_would(error)


def _exit_code(error: SystemExit) -> int:
    return error.code & 0xFF if isinstance(error.code, int) else 1


def _write_failure(text: str, *, exit_code: int, has_saved: bool = False) -> None:
    with contextlib.suppress(OSError):  # a full disk: the launcher sees the exit code at least
        write_failure(
            os.environ[contract.RUN_DIR],
            rank=int(os.environ[contract.RANK]),
            at=time.monotonic(),
            exit_code=exit_code,
            traceback=text,
            has_saved=has_saved,
        )


def _format(error: BaseException) -> str:
    error.__traceback__ = _without_our_frames(error.__traceback__)
    return "".join(traceback.format_exception(type(error), error, error.__traceback__))


def _without_our_frames(frames: types.TracebackType | None) -> types.TracebackType | None:
    """Returns the traceback without the frames of tfdist and runpy before the program."""
    root = os.path.dirname(os.path.dirname(__file__))
    ours = (__file__, os.path.join(root, "launch", "call.py"), os.path.join(root, "__main__.py"),
            os.path.join(root, "cli", ""), runpy.__file__, "<frozen runpy>")
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(ours):
        frames = frames.tb_next
    return frames


def _end_as_python_would(error: BaseException) -> NoReturn:
    sys.last_type, sys.last_value, sys.last_traceback = type(error), error, error.__traceback__
    if sys.excepthook is sys.__excepthook__ and os.environ.get(job.TRACEBACKS) == "0":
        # The launcher shows the full traceback of the first failure at the end of the output.
        print("".join(traceback.format_exception_only(error)).rstrip(), file=sys.stderr)
    else:
        sys.excepthook(type(error), error, error.__traceback__)
    raise SystemExit(1) from None


if __name__ == "__main__":
    main()
