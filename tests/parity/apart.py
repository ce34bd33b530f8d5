"""How is a function called in a process of its own that need not import TensorFlow first?

The import takes longer than a row does. So one process imports it, once, and does nothing else;
the others are forks of it, in which TensorFlow has not started yet.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["keras"])


def call(fn: Callable[..., Any], *args: Any, timeout_secs: float, **kwargs: Any) -> Any:
    """Calls a function, of a module that imports no tfdist, in a new process.

    Raises:
        RuntimeError: It raised something, brought its process down, or took longer.
    """
    receiver, sender = _FORKS.Pipe(duplex=False)
    process = _FORKS.Process(target=_answer, args=(sender, fn, args, kwargs))
    process.start()
    sender.close()
    try:
        if not receiver.poll(timeout_secs):
            raise RuntimeError(f"{fn.__name__} took longer than {timeout_secs:.0f} s")
        error, value = receiver.recv()
    except EOFError:
        process.join()
        raise RuntimeError(f"the process of {fn.__name__} ended: {process.exitcode}") from None
    finally:
        process.kill()
        process.join()
    if error:
        raise RuntimeError(error)
    return value


def _answer(sender: Connection, fn: Callable[..., Any], args: Any, kwargs: Any) -> None:
    try:
        answer = "", fn(*args, **kwargs)
    except Exception:
        answer = traceback.format_exc(), None
    sender.send(answer)
