"""How do calls of Keras's own `fit`, `evaluate` and the like come to tfdist?

Keras's Trainer gives these methods to models, to whatever else it is mixed into, and to every
subclass that overrides one of them and calls `super()`. So they are replaced in that class itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfdist.compat.keras_internals import trainer_class

#: The public methods of Keras's Trainer that compute.
METHODS = (
    "fit", "evaluate", "predict", "train_on_batch", "test_on_batch", "predict_on_batch",
)
_originals: dict[str, Callable[..., Any]] = {}


def original(name: str) -> Callable[..., Any]:
    """Returns Keras's own method, also while another one stands in its place."""
    for method in METHODS:
        _originals.setdefault(method, getattr(trainer_class(), method))
    return _originals[name]


@contextlib.contextmanager
def replaced(methods: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Puts methods in the place of Keras's own ones within a `with` block."""
    kind = trainer_class()
    with contextlib.ExitStack() as stack:
        for name, method in methods.items():
            original(name)
            stack.callback(setattr, kind, name, getattr(kind, name))
            setattr(kind, name, method)
        yield
