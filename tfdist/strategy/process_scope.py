"""Which strategy is in scope for the whole process, and how is it left for another one?

Synopsis:

    >>> import tensorflow as tf
    >>> from tfdist.strategy.factory import get_strategy
    >>> enter(get_strategy("2xcpu"))
    >>> tf.distribute.get_strategy().num_replicas_in_sync
    2
    >>> with tf.distribute.OneDeviceStrategy("/cpu:0").scope():  # a program's own
    ...     tf.distribute.get_strategy().num_replicas_in_sync
    1
    >>> leave()
    >>> tf.distribute.has_strategy()
    False

TensorFlow refuses the scope of one strategy inside that of another. A program that makes a strategy
of its own keeps it: the process's strategy is left while the program's own is in scope.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

# The state of the process, which TensorFlow keeps too: the strategy, and its class's own `scope`.
_entered: list[tf.distribute.Strategy] = []
_scope: Callable[[Any], Any] = tf.distribute.Strategy.scope
_reset: Callable[[], None] = tf.compat.v1.reset_default_graph


def current() -> tf.distribute.Strategy | None:
    """Returns the strategy of the whole process, or None."""
    return _entered[-1] if _entered else None


def enter(strategy: tf.distribute.Strategy) -> None:
    """Puts a strategy in scope for the whole process, in place of an earlier one.

    Raises:
        RuntimeError: The call stands inside of the scope of a strategy.
    """
    leave()
    if tf.distribute.has_strategy():
        raise RuntimeError(
            f"A strategy is in scope already ({tf.distribute.get_strategy()!r}), so none can be "
            "put in scope for the whole process. Call it outside of `with strategy.scope():`."
        )
    tf.distribute.experimental_set_strategy(strategy)
    _entered.append(strategy)
    tf.distribute.Strategy.scope = _own_scope
    tf.compat.v1.reset_default_graph = _reset_and_enter


def leave() -> None:
    """Takes the strategy of the whole process out of scope, if there is one."""
    if _entered:
        _entered.clear()
        tf.distribute.Strategy.scope = _scope
        tf.compat.v1.reset_default_graph = _reset
        tf.distribute.experimental_set_strategy(None)


def _own_scope(strategy: tf.distribute.Strategy) -> Any:
    return _left_and_entered(strategy) if _is_other(strategy) else _scope(strategy)


def _reset_and_enter() -> None:
    """Resets the default graph, as `keras.utils.clear_session` does, and keeps the strategy in it.

    TensorFlow keeps the scope in the default graph, and forgets it there.
    """
    strategy = current()
    is_in_scope = tf.distribute.has_strategy() and tf.distribute.get_strategy() is strategy
    if is_in_scope:
        tf.distribute.experimental_set_strategy(None)
    _reset()
    if is_in_scope:
        tf.distribute.experimental_set_strategy(strategy)


def _is_other(strategy: tf.distribute.Strategy) -> bool:
    # Another thread, or a block inside `left_for`, is not in the process's scope.
    now = tf.distribute.get_strategy()
    return tf.distribute.has_strategy() and now is current() and strategy is not now


@contextlib.contextmanager
def _left_and_entered(strategy: tf.distribute.Strategy) -> Iterator[tf.distribute.Strategy]:
    with left_for(strategy), _scope(strategy):
        yield strategy


@contextlib.contextmanager
def left_for(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Leaves the process's strategy within a `with` block that works for another strategy."""
    if not _is_other(strategy):
        yield
        return
    tf.distribute.experimental_set_strategy(None)
    try:
        yield
    finally:
        if (outer := current()) is not None:
            tf.distribute.experimental_set_strategy(outer)
