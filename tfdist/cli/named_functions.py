"""Which function does `module:function` name?  What a flag can hold."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any


def function_of(target: str) -> Callable[..., Any]:
    """Returns the function that a text names; the current folder counts as on the path.

    Args:
        target: `"module:function"`, as in `"package.models:small"`.

    Raises:
        ValueError: The text names no function, or there is no such module or function.
    """
    module, _, function = target.partition(":")
    if not module or not function:
        raise ValueError(f"{target!r} names no function; write module:function.")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module.partition(".")[0]:
            raise  # the module is there, and lacks something itself
        raise ValueError(
            f"{target!r}: there is no module {module!r} on the path or in {os.getcwd()}; name one."
        ) from None
    value = getattr(found, function, None)
    if not callable(value):
        raise ValueError(f"{target!r}: {found.__file__} has no function {function!r}; name one.")
    return value
