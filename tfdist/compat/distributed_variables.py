"""What can a variable of one device do that one of several replicas cannot?

`int(variable)`, `float(model.optimizer.learning_rate)` and `np.asarray(variable)`, which callbacks
write: TensorFlow's variables of one device have these conversions, and its distributed ones lack
them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from tfdist.compat.keras_internals import module


@contextlib.contextmanager
def convertible() -> Iterator[None]:
    """Gives distributed variables the conversions of other variables, within a `with` block."""
    kind = module("tensorflow.python.distribute.values").DistributedVariable
    with contextlib.ExitStack() as stack:
        for name, conversion in _CONVERSIONS.items():
            if name not in vars(kind):
                setattr(kind, name, conversion)
                stack.callback(delattr, kind, name)
        yield


def _array(variable: Any, dtype: Any = None, **kwargs: Any) -> np.ndarray:
    return np.array(variable.numpy(), dtype, **kwargs)


_CONVERSIONS: dict[str, Callable[..., Any]] = {
    "__int__": lambda variable: int(variable.numpy()),
    "__float__": lambda variable: float(variable.numpy()),
    "__array__": _array,
}
