"""How do a function and its values travel between the caller and the workers?

In files in a private folder: a function that workers can import travels by its name, everything
else by cloudpickle.
"""

from __future__ import annotations

import collections
import dataclasses
import importlib
import io
import os
import pickle
import sys
import tempfile
import types
from collections.abc import Callable
from typing import Any

from tfdist.cluster import contract
from tfdist.launch.job import Job

# Pickled without cloudpickle, whose import takes time.
_PLAIN_TYPES = (type(None), bool, int, float, str, bytes)
_NO_NAME = "<dynamic-code>"  # which cloudpickle 3.1.3 uses instead of a file's name


# -------------------------------------------------------------------------------- the caller's side


def run_function(
    job: Job, fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]
) -> list[Any]:
    """Runs a job that calls `fn` on each worker.

    Returns:
        Its values, in rank order.

    Raises:
        RuntimeError: A worker failed, or a value could not travel.
    """
    from tfdist.launch import failures, supervise

    if contract.RUN_DIR in os.environ:
        raise RuntimeError(
            "launch.run was called inside a worker of another job. Put the call under"
            " `if __name__ == '__main__':`, so that a worker which imports the file does not"
            " start workers itself."
        )
    if not callable(fn):
        raise ValueError(f"fn={fn!r} cannot be called; give a function.")
    with tempfile.TemporaryDirectory(prefix="tfdist-") as run_dir:
        path = os.path.join(run_dir, "call.pickle")
        _write(path, pack(fn, args, kwargs))
        asked = dataclasses.replace(job, command=("function", path))
        outcomes = supervise.supervise(asked, run_dir=run_dir)
        *earlier, last = outcomes
        if not last.is_success:
            raise RuntimeError(failures.report(last, earlier=earlier))
        return [_read_value(last.run_dir, rank) for rank in range(last.size)]


def pack(fn: Callable[..., Any], args: tuple, kwargs: dict[str, Any]) -> bytes:
    """Packs a call.

    Raises:
        ValueError: The function or an argument cannot be pickled.
    """
    name = importable_name(fn)
    content = (None if name else fn, args, kwargs)
    if name and not args and not kwargs:
        packed = pickle.dumps(content)
    else:
        try:
            packed = dumps(content)
        except Exception as error:
            raise ValueError(
                f"fn={fn!r} or its arguments cannot be sent to the workers ({error}). Give what"
                " can be pickled, and make files, connections and models inside the function."
            ) from error
    path = [os.path.abspath(entry) for entry in sys.path]
    return pickle.dumps({"path": path, "name": name, "content": packed})


def importable_name(fn: Callable[..., Any]) -> str:
    """Returns "module:name" if a worker can import the function, else ""."""
    module_name = getattr(fn, "__module__", None)
    qualified = getattr(fn, "__qualname__", None)
    if not module_name or not qualified or module_name == "__main__":
        return ""
    found: Any = sys.modules.get(module_name)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    return f"{module_name}:{qualified}" if found is fn else ""


def _read_value(run_dir: str, rank: int) -> Any:
    try:
        with open(_value_path(run_dir, rank), "rb") as file:
            return pickle.load(file)
    except FileNotFoundError:
        raise RuntimeError(
            f"worker {rank} ended with exit code 0 before the function returned; do not call"
            " sys.exit or os._exit in it."
        ) from None
    except Exception as error:
        raise RuntimeError(
            f"The value of worker {rank} cannot be read back ({type(error).__name__}: {error})."
            " Return numbers, texts, NumPy arrays, or lists and dicts of them."
        ) from error


# ---------------------------------------------------------------------------------- a worker's side


def answer(path: str, *, run_dir: str, rank: int) -> None:
    """Calls the packed function, and writes its value to a file.

    Raises:
        RuntimeError: The function cannot be found here, or its value cannot be pickled.
    """
    fn, args, kwargs = _unpack(path)
    value = fn(*args, **kwargs)
    try:
        is_plain = type(value) in _PLAIN_TYPES
        data = pickle.dumps(value) if is_plain else dumps(value)
    except Exception as error:
        raise RuntimeError(
            f"The function returned a {type(value).__name__}, which cannot be sent back"
            f" ({error}). Return numbers, texts, NumPy arrays, or lists and dicts of them."
        ) from None
    _write(_value_path(run_dir, rank), data)


def _unpack(path: str) -> tuple[Callable[..., Any], tuple, dict[str, Any]]:
    with open(path, "rb") as file:
        call = pickle.load(file)
    # The caller's modules must be found here too, in the caller's order of folders.
    sys.path[:] = [*call["path"], *(entry for entry in sys.path if entry not in call["path"])]
    try:
        fn, args, kwargs = pickle.loads(call["content"])
        if call["name"]:
            module_name, _, qualified = call["name"].partition(":")
            fn = importlib.import_module(module_name)
            for part in qualified.split("."):
                fn = getattr(fn, part)
    except (ImportError, AttributeError) as error:
        raise RuntimeError(
            f"The function {call['name'] or 'that was sent'} or its arguments cannot be loaded"
            f" in a worker ({error}). Install the package on every host, or put the module where"
            " the caller's sys.path leads."
        ) from error
    return fn, args, kwargs


def _value_path(run_dir: str, rank: int) -> str:
    return os.path.join(run_dir, f"value_{rank}.pickle")


def _write(path: str, data: bytes) -> None:
    with open(path + ".part", "wb") as file:
        file.write(data)
    os.replace(path + ".part", path)


def dumps(value: Any) -> bytes:
    """Pickles a value; functions and classes of `__main__`, closures and lambdas too.

    Their code keeps its file names: without them tracebacks would show no source lines, and
    AutoGraph would find no source to convert.
    """
    import cloudpickle  # slow to import, and not always needed

    known = cloudpickle.Pickler.dispatch_table

    def reduce_code(code: types.CodeType) -> tuple[Any, ...]:
        make, given, *rest = known[types.CodeType](code)
        named = tuple(code.co_filename if part == _NO_NAME else part for part in given)
        return (make, named, *rest)

    class NamingPickler(cloudpickle.Pickler):  # type: ignore[misc]  # the table is per class
        dispatch_table = collections.ChainMap({types.CodeType: reduce_code}, known)

    file = io.BytesIO()
    NamingPickler(file).dump(value)
    return file.getvalue()
