"""What can a variable of one device do that one of several replicas cannot?

`int(variable)`, `float(model.optimizer.learning_rate)` and `np.asarray(variable)`, which callbacks
write: TensorFlow's variables of one device have these conversions, and its distributed ones lack
them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tfdist.compat.keras_internals import module

_CONVERSIONS = ("__int__", "__float__", "__array__")


@contextlib.contextmanager
def convertible() -> Iterator[None]:
    """Gives distributed variables the conversions of other variables, within a `with` block."""
    kind = module("tensorflow.python.distribute.values").DistributedVariable
    missing = [name for name in _CONVERSIONS if name not in vars(kind)]
    with contextlib.ExitStack() as stack:
        for name in missing:
            setattr(kind, name, _conversion(name))
            stack.callback(delattr, kind, name)
        yield


def _conversion(name: str) -> Callable[..., Any]:
    def convert(variable: Any, *args: Any, **kwargs: Any) -> Any:
        return getattr(variable.numpy(), name)(*args, **kwargs)

    return convert
