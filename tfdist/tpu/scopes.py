"""Which layer made an operation?  The name of an operation -> the layer or metric behind it.

TensorFlow names an operation by the scopes that were open when it was made, and makes these names
unique: the layer `dense` may appear as `dense_1`, and `dense_1` as `dense_1_2`. So the scopes are
recorded while the layers are called.
"""

from __future__ import annotations

import contextlib
import re
import traceback
import types
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat import keras_internals

# Where messages of TensorFlow and XLA carry names of operations.
_NAMED = (r"\{\{node ([^}\s]+)\}\}", r'op_name="([^"]+)"', r'loc\("([^"]+)"')

_OWNERS = (keras.layers.Layer, keras.metrics.Metric)


class Origins:
    """Records what was called under which name scope."""

    def __init__(self) -> None:
        self._by_scope: dict[str, str] = {}
        self._failed: str | None = None

    def note(self, origin: str) -> None:
        """Records that `origin` is being called under the current scope."""
        scope = tf.get_current_name_scope()
        if scope:
            self._by_scope[scope] = origin

    def of_operation(self, name: str) -> str | None:
        """Returns the innermost layer or metric that made an operation, or its gradient.

        Args:
            name: The operation's name, with all its scopes.
        """
        path = f"/{name}/"
        scopes = [scope for scope in self._by_scope if f"/{scope}/" in path]
        return self._by_scope[max(scopes, key=len)] if scopes else None

    def of_message(self, message: str) -> str | None:
        """Returns the first layer or metric that a message of TensorFlow or XLA names."""
        names = [name for pattern in _NAMED for name in re.findall(pattern, message)]
        return next(filter(None, map(self.of_operation, names)), None)

    def note_failure(self, origin: str) -> None:
        """Takes down that an exception came out of `origin`; the innermost one tells first."""
        self._failed = self._failed or origin

    def of_exception(self, error: BaseException) -> str | None:
        """Returns the layer, metric or function of the user's that an exception came out of."""
        frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
        owners = [_first_argument(frame) for frame in reversed(frames)]
        found = [_named(owner) for owner in owners if isinstance(owner, _OWNERS)]
        own = [frame.f_code for frame in frames if is_users(frame.f_code.co_filename)]
        line = f"function {own[-1].co_name!r} ({own[-1].co_filename})" if own else None
        return self._failed or (found[0] if found else line)


def is_users(filename: str) -> bool:
    """Tells whether a file is the user's own, by its path."""
    return not any(part in filename for part in ("site-packages", "/tfdist/", "<"))


def _first_argument(frame: types.FrameType) -> Any:
    """Returns what a method calls self, where it is no container of others."""
    names = frame.f_code.co_varnames[: frame.f_code.co_argcount][:1]
    value = frame.f_locals.get(names[0]) if names else None
    return None if hasattr(value, "metrics") else value


def _named(owner: Any) -> str:
    kind = "metric" if isinstance(owner, keras.metrics.Metric) else "layer"
    return f"{kind} {owner.name!r} ({type(owner).__name__})"


@contextlib.contextmanager
def recorded(model: keras.Model, origins: Origins) -> Iterator[None]:
    """Notes under which scopes the layers and metrics of a model are called in a `with` block.

    Args:
        model: A compiled model whose metrics exist.
        origins: What takes it down.
    """
    layers = [layer for layer in keras_internals.flat_layers(model) if layer is not model]
    with contextlib.ExitStack() as stack:
        for layer in layers:
            _shadow(stack, layer, "call", _noting(origins, _named(layer), scope=None))
        for metric in _leaves(model.metrics):
            noting = _noting(origins, _named(metric), scope=f"metric_{metric.name}")
            _shadow(stack, metric, "update_state", noting)
        yield


def _noting(
    origins: Origins, origin: str, *, scope: str | None
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def wrap(method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(*args: Any, **kwargs: Any) -> Any:
            with tf.name_scope(scope) if scope else contextlib.nullcontext():
                origins.note(origin)
                try:
                    return method(*args, **kwargs)
                except Exception:
                    origins.note_failure(origin)
                    raise

        return noted

    return wrap


def _shadow(
    stack: contextlib.ExitStack,
    owner: Any,
    name: str,
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]],
) -> None:
    """Puts an attribute before the method of that name, past Keras's tracking of attributes."""
    attributes = vars(owner)
    if name in attributes:
        stack.callback(attributes.__setitem__, name, attributes[name])
    else:
        stack.callback(attributes.pop, name)
    attributes[name] = wrap(_late(owner, name, attributes.get(name)))


def _late(owner: Any, name: str, own: Callable[..., Any] | None) -> Callable[..., Any]:
    # The class's method is looked up when it is called: a step replaces some while it is traced.
    return own or (lambda *args, **kwargs: getattr(type(owner), name)(owner, *args, **kwargs))


def _leaves(metrics: Any) -> list[Any]:
    """Returns the metrics that hold no others."""
    return [
        leaf
        for metric in metrics
        for leaf in (_leaves(metric.metrics) if hasattr(metric, "metrics") else [metric])
    ]
