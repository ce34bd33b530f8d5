"""What have the callbacks learnt since training began?

A callback with `get_state()` and `set_state(state)` provides its state itself. The state of any
other callback is every attribute with a plain value (numbers, texts, arrays, and lists, tuples,
sets and dicts of them) that has changed since `on_train_begin`: `EarlyStopping.best` and its
weights, the `History`, counters of custom callbacks. Configuration never changes, so it is always
that of the present callback. Whoever can write a checkpoint could make configuration look like
state; so what may name a file of the present callback is never taken from there.
"""

from __future__ import annotations

import dataclasses
import inspect
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfdist.checkpoint import plain_values
from tfdist.cluster.wording import shorten

_LOG = logging.getLogger("tfdist")
_OF_THE_RUN = ("_model", "params", "validation_data")  # set on every callback by Keras
_OWN, _SIZE = "own state", "file size"  # no attribute has a name with a space


class CallbackState:
    """Saves and restores the state of a run's callbacks.

    Args:
        callbacks: The callbacks of the run, in their order.
    """

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self._callbacks = dict(_named(callbacks))
        self._begun: dict[str, dict[str, Any]] = {}
        self._told: set[str] = set()

    def prepare(self, saved: Mapping[str, Any]) -> None:
        """Keeps callbacks from wiping in `on_train_begin` what they wrote before the stop.

        Args:
            saved: What `take` returned, decoded.
        """
        for name, callback in self._callbacks.items():
            size = saved.get(name, {}).get(_SIZE)
            if type(size) is int and size > 0 and os.path.exists(callback.filename):
                # Rows that came after the checkpoint will come again.
                os.truncate(callback.filename, min(size, os.path.getsize(callback.filename)))
                callback.append = True

    def begin(self) -> None:
        """Records the state of the callbacks after `on_train_begin`."""
        self._begun = {
            name: {key: _look(value, name, key) for key, value in _attributes(callback)}
            for name, callback in self._callbacks.items()
        }

    def take(self, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        """Returns the state of all callbacks by name, as `plain_values.encode` gives it.

        Args:
            arrays: Receives copies of the arrays in it.

        Raises:
            ValueError: The state that a callback's `get_state` returned has no plain form.
        """
        return {
            name: self._own_state(name, callback, arrays)
            if _says_it_itself(callback)
            else self._changes(name, callback, arrays)
            for name, callback in self._callbacks.items()
        }

    def give(self, saved: Mapping[str, Any]) -> None:
        """Gives the callbacks the state that `take` returned, decoded, after `on_train_begin`."""
        for name, callback in self._callbacks.items():
            state = dict(saved.get(name, {}))
            state.pop(_SIZE, None)
            if name not in saved or (_OWN in state) != _says_it_itself(callback):
                _LOG.warning("The checkpoint does not know the callback %s; it begins now.", name)
            elif _OWN in state:
                callback.set_state(state[_OWN])
            else:
                begun = self._begun.get(name, {})
                known = {k: v for k, v in state.items() if _is_state(callback, k, v, begun)}
                vars(callback).update(known)
                if others := sorted(state.keys() - known.keys()):
                    _LOG.warning(
                        "The checkpoint gives %s as state of %s. They are configuration here, and "
                        "stay as they are.", shorten(", ".join(others)), name
                    )
        for name in sorted(saved.keys() - self._callbacks.keys()):
            _LOG.warning("The checkpoint knows a callback %s, which is not given now.", name)

    def _own_state(self, name: str, callback: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        state = callback.get_state()
        try:
            return {_OWN: plain_values.encode(state, arrays, prefix=f"callbacks/{name}")}
        except TypeError as error:
            raise ValueError(
                f"{name}.get_state() returned {state!r}, which cannot be saved: {error}. Return "
                "numbers, texts, arrays, or lists, tuples, sets and dicts of them."
            ) from error

    def _changes(self, name: str, callback: Any, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
        state, lost = {}, []
        begun = self._begun.get(name, {})
        for key, value in _attributes(callback):
            look = _look(value, name, key)
            if _is_same(begun.get(key), look):
                continue
            if isinstance(look, _Look) and _is_state(callback, key, value, begun):
                state[key] = look.value
                arrays.update(look.arrays)
            else:
                lost.append(key)
        if lost and name not in self._told and not type(callback).__module__.startswith("keras."):
            self._told.add(name)
            _LOG.warning(
                "What %s keeps in %s cannot be saved, and begins anew after a stop. Give the class "
                "get_state() and set_state(state) with plain values.", name, ", ".join(sorted(lost))
            )
        if isinstance(callback, keras.callbacks.CSVLogger) and os.path.exists(callback.filename):
            state[_SIZE] = os.path.getsize(callback.filename)
        return state


@dataclasses.dataclass(frozen=True)
class _Look:
    """A copy of a plain value, to compare with later: the value may be changed in place."""

    value: Any
    arrays: dict[str, np.ndarray]


def _look(value: Any, name: str, key: str) -> Any:
    arrays: dict[str, np.ndarray] = {}
    try:
        return _Look(plain_values.encode(value, arrays, prefix=f"callbacks/{name}/{key}"), arrays)
    except TypeError:
        return value  # other objects are compared by identity


def _says_it_itself(callback: Any) -> bool:
    return hasattr(callback, "get_state") and hasattr(callback, "set_state")


def _is_state(callback: Any, key: str, value: Any, begun: Mapping[str, Any]) -> bool:
    """Tells whether an attribute may get a plain value from a checkpoint.

    Not if it held a text or something without a plain form when training began, since that is what
    it was made with, or follows from it; nor a text for an argument of the callback's class, or one
    that leads to another folder.
    """
    before = begun.get(key)
    if key in _OF_THE_RUN or callable(getattr(type(callback), key, None)):
        return False
    if before is not None and (not isinstance(before, _Look) or any(_texts(before.value))):
        return False
    texts = list(_texts(value))
    return not texts or not (key in _arguments(callback) or any(map(_leads_away, texts)))


def _texts(value: Any) -> Iterator[str]:
    """Gives all texts in a plain value, or in an encoded one, but keys and marks of the form."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from () if key in ("$array", "$scalar") else _texts(item)
    elif isinstance(value, (list, tuple, set)):
        for item in value:
            yield from _texts(item)


def _leads_away(text: str) -> bool:
    parts = text.replace("\\", "/").split("/")
    return "://" in text or text.startswith("~") or os.path.isabs(text) or ".." in parts


def _arguments(callback: Any) -> set[str]:
    return {
        name
        for kind in type(callback).__mro__
        if inspect.isfunction(vars(kind).get("__init__"))
        for name in inspect.signature(vars(kind)["__init__"]).parameters
    }


def _is_same(before: Any, now: Any) -> bool:
    if not (isinstance(before, _Look) and isinstance(now, _Look)):
        return before is now
    return json.dumps(before.value) == json.dumps(now.value) and all(
        a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
        for a, b in zip(before.arrays.values(), now.arrays.values(), strict=True)
    )


def _named(callbacks: Sequence[Any]) -> Iterator[tuple[str, Any]]:
    """Names callbacks by class, and by number within the class."""
    seen: dict[str, int] = {}
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.ProgbarLogger):
            continue  # only the chief has one, and it needs no state
        kind = type(callback).__qualname__
        seen[kind] = seen.get(kind, 0) + 1
        yield (kind if seen[kind] == 1 else f"{kind} {seen[kind]}"), callback


def _attributes(callback: Any) -> Iterator[tuple[str, Any]]:
    return ((key, value) for key, value in vars(callback).items() if key not in _OF_THE_RUN)
