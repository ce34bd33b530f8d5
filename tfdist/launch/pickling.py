"""How is pickled what no worker can import? By cloudpickle, with the names of its source files."""

from __future__ import annotations

import collections
import io
import types
from typing import Any

_NO_NAME = "<dynamic-code>"  # what cloudpickle 3.1.3 puts in the place of a file's name


def dumps(value: Any) -> bytes:
    """Pickles a value; functions and classes of `__main__`, closures and lambdas too.

    Their code keeps the names of its files, without which a traceback has no lines to show, and
    AutoGraph no source to convert.
    """
    import cloudpickle  # takes its time, and not everybody needs it

    known = cloudpickle.Pickler.dispatch_table

    def reduce_code(code: types.CodeType) -> tuple[Any, ...]:
        make, given, *rest = known[types.CodeType](code)
        named = tuple(code.co_filename if part == _NO_NAME else part for part in given)
        return (make, named, *rest)

    class NamingPickler(cloudpickle.Pickler):  # type: ignore[misc]  # a table of the class alone
        dispatch_table = collections.ChainMap({types.CodeType: reduce_code}, known)

    file = io.BytesIO()
    NamingPickler(file).dump(value)
    return file.getvalue()
