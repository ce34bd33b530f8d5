"""What went into each layer, and what came out of it, in a forward pass?

Of layers whose weights act on their input as a product or a scale, the gradient of every example
follows from these two: see factors.py. What comes out is taken before the activation.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

_own = threading.local()  # MirroredStrategy traces every replica in a thread of its own


class Record(NamedTuple):
    """One call of a layer.

    Attributes:
        layer: The layer.
        given: What went into it.
        made: What came out of it, before its activation.
    """

    layer: Any
    given: Any
    made: Any


@contextlib.contextmanager
def listening(layers: Sequence[Any]) -> Iterator[None]:
    """Makes layers tell of their calls to `records`, in whichever thread, within a block."""
    with contextlib.ExitStack() as stack:
        for layer in layers:
            stack.callback(vars(layer).pop, "call")
            vars(layer)["call"] = _telling(layer, layer.call)
        yield


@contextlib.contextmanager
def records() -> Iterator[list[Record]]:
    """Collects the calls that this thread makes of layers that are being listened to."""
    before = getattr(_own, "records", None)
    found: list[Record] = []
    _own.records = found
    try:
        yield found
    finally:
        _own.records = before


def _telling(layer: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    def told(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        found = getattr(_own, "records", None)
        if found is None:
            return call(inputs, *args, **kwargs)
        activation = getattr(layer, "activation", None)
        if activation is None:
            made = call(inputs, *args, **kwargs)
            found.append(Record(layer, inputs, made))
            return made
        vars(layer)["activation"] = None
        try:
            made = call(inputs, *args, **kwargs)
        finally:
            vars(layer)["activation"] = activation
        found.append(Record(layer, inputs, made))
        return activation(made)

    return told
