"""How do Python values become JSON and arrays, and come back the same?  Without pickle.

Synopsis:

    >>> import numpy as np
    >>> arrays = {}
    >>> text = encode({"best": np.array([0.5]), "seen": (1, 2)}, arrays, prefix="a")
    >>> text, arrays
    ({'best': {'$array': 'a/best'}, 'seen': {'$tuple': [1, 2]}}, {'a/best': array([0.5])})
    >>> decode(text, arrays)
    {'best': array([0.5]), 'seen': (1, 2)}

Everything else, such as objects of other classes, is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfdist.cluster.wording import shorten

_MARK = "$"


def encode(value: Any, arrays: dict[str, np.ndarray], *, prefix: str) -> Any:
    """Turns a value into what JSON can hold; arrays and NumPy scalars go into `arrays`.

    Args:
        value: None, bool, int, float, str, NumPy array or scalar, or a list, tuple, set or dict
            of such.
        arrays: Receives the arrays, by names that begin with `prefix`.
        prefix: Name of the value.

    Raises:
        TypeError: It contains something else, or itself.
    """
    try:
        return _encode(value, arrays, prefix)
    except RecursionError:
        raise TypeError("a value that holds itself has no plain form") from None


def _encode(value: Any, arrays: dict[str, np.ndarray], prefix: str) -> Any:
    kind = type(value)
    if value is None or kind in (bool, int, float, str):
        return value
    if isinstance(value, (np.ndarray, np.generic)) and _is_numeric(value.dtype):
        name = _free_name(prefix, arrays)
        arrays[name] = np.array(value)
        return {"$array" if isinstance(value, np.ndarray) else "$scalar": name}
    if kind in (list, tuple, set):
        items = sorted(value) if kind is set else value
        encoded = [_encode(item, arrays, f"{prefix}/{i}") for i, item in enumerate(items)]
        return encoded if kind is list else {_MARK + kind.__name__: encoded}
    if kind is dict:
        if all(type(key) is str and not key.startswith(_MARK) for key in value):
            return {k: _encode(item, arrays, f"{prefix}/{k}") for k, item in value.items()}
        pairs = [list(pair) for pair in value.items()]
        return {"$dict": _encode(pairs, arrays, prefix)}
    raise TypeError(f"a {kind.__module__}.{kind.__qualname__} has no plain form")


def decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Returns what `encode` was given.

    Raises:
        ValueError: `encode` has not made this.
    """
    try:
        return _decode(value, arrays)
    except (KeyError, TypeError, ValueError, IndexError, RecursionError) as error:
        raise ValueError(f"This is no plain value: {shorten(value)} ({error!r}).") from None


def _decode(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    if isinstance(value, list):
        return [_decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    mark = next(iter(value), "")
    if not mark.startswith(_MARK):
        return {key: _decode(item, arrays) for key, item in value.items()}
    inside = value[mark]
    if mark == "$array":
        return np.array(arrays[inside])
    if mark == "$scalar":
        return arrays[inside][()]
    items = _decode(inside, arrays)
    return {"$tuple": tuple, "$set": set, "$dict": dict}[mark](items)


def _is_numeric(dtype: np.dtype) -> bool:
    # NumPy has no kind of its own for the 8 and 16 bit floats of machine learning.
    is_own = dtype.kind in "biufc" and dtype.name not in ("longdouble", "float128", "complex256")
    return is_own or dtype.name.startswith(("bfloat16", "float8"))


def _free_name(prefix: str, arrays: Mapping[str, Any]) -> str:
    name, number = prefix, 1
    while name in arrays:
        name, number = f"{prefix}+{number}", number + 1
    return name
