"""Which strategy is in scope for the whole process, and how is it left for another one?

Synopsis:

    >>> import tensorflow as tf
    >>> from tfdist.strategy.factory import get_strategy
    >>> enter(get_strategy("2xcpu"))
    >>> tf.distribute.get_strategy().num_replicas_in_sync
    2
    >>> leave()
    >>> tf.distribute.has_strategy()
    False

TensorFlow refuses the scope of one strategy inside that of another, and to read the other's
variables there. So when a program enters the scope of a strategy of its own, the process's is left
for good: the program says by itself where its models are made. With several workers it cannot,
since a strategy that it makes would know nothing of the others, or join them again. There it gets
the strategy of the process, whichever it asks for.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from typing import Any

import tensorflow as tf

_LOG = logging.getLogger("tfdist")
_scope: Callable[[Any], Any] = tf.distribute.Strategy.scope
_reset: Callable[[], None] = tf.compat.v1.reset_default_graph


@dataclasses.dataclass(frozen=True)
class _Entered:
    strategy: tf.distribute.Strategy
    has_others: bool


# The state of the process, which TensorFlow keeps too: one entry, or none; and what undoes it.
_entered: list[_Entered] = []
_undone = contextlib.ExitStack()


def current() -> tf.distribute.Strategy | None:
    """Returns the strategy of the whole process, or None."""
    return _entered[0].strategy if _entered else None


def enter(strategy: tf.distribute.Strategy, *, has_others: bool = False) -> None:
    """Puts a strategy in scope for the whole process, in place of an earlier one.

    Args:
        strategy: The strategy.
        has_others: Whether it has other workers than this process.

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
    _undone.callback(tf.distribute.experimental_set_strategy, None)
    _undone.callback(_entered.clear)
    _entered.append(_Entered(strategy, has_others))
    for home, name, own, original in (
        (tf.distribute.Strategy, "scope", _own_scope, _scope),
        (tf.compat.v1, "reset_default_graph", _reset_and_enter, _reset),
    ):
        _undone.callback(setattr, home, name, original)
        setattr(home, name, own)
    if has_others:
        _undone.enter_context(_made_once(strategy))


def leave() -> None:
    """Takes the strategy of the whole process out of scope, if there is one."""
    _undone.close()


def _own_scope(strategy: tf.distribute.Strategy) -> Any:
    if _is_other(strategy):
        _LOG.info("The program keeps the strategy that it made: %s.", type(strategy).__name__)
        leave()
    return _scope(strategy)


@contextlib.contextmanager
def _made_once(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Lets a program that makes a strategy for several replicas get this one."""
    kinds = (tf.distribute.MirroredStrategy, tf.distribute.MultiWorkerMirroredStrategy)
    with contextlib.ExitStack() as stack:
        for kind in kinds:
            stack.callback(setattr, kind, "__new__", _new)
            stack.callback(setattr, kind, "__init__", kind.__init__)
            kind.__new__ = staticmethod(lambda *args, **kwargs: strategy)
            kind.__init__ = lambda self, *args, **kwargs: None  # it was made before
        yield


def _new(kind: type, *args: Any, **kwargs: Any) -> Any:
    return object.__new__(kind)


def refuse_another() -> None:
    """Raises a RuntimeError where no further strategy can be made in this process."""
    if _entered and _entered[0].has_others:
        raise RuntimeError(
            "Keras was patched for a strategy that this process shares with other workers, so no "
            "further strategy can be made here. Call tfdist.unpatch_keras() first, or use "
            "tf.distribute.get_strategy()."
        )


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
