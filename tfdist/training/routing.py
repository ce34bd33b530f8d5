"""How do a model's own `fit`, and Keras's, come to tfdist, and which calls do?

While a trainer runs, and for the whole process after `patch_keras`, Keras's Trainer methods are
replaced: calls of callbacks, of libraries, and of subclasses that override a method and call
`super()` go to the model's trainer. So a model that prepares its data in a `fit` of its own is
trained through that `fit`, whoever calls it.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import inspect
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from tfdist.compat import distributed_variables, keras_internals, trainer_methods

# The methods that are running, by model and name, each with its trainer and tfdist's own options.
_entered: contextvars.ContextVar[Mapping[tuple[int, str], tuple[Any, dict[str, Any]]]]
_entered = contextvars.ContextVar("entered", default=types.MappingProxyType({}))
# The methods that train. Where Keras is patched, no model may train outside of the strategy.
_TRAINING = ("fit", "train_on_batch")


class Routes:
    """Puts methods that call tfdist in the place of those of Keras's Trainer, while asked to.

    Any number of trainers may run at a time, also in several threads.

    Args:
        trainer_of: Returns the trainer of a model.
    """

    def __init__(self, trainer_of: Callable[[Any], Any]) -> None:
        self._trainer_of = trainer_of
        self._lock, self._users = threading.Lock(), 0
        self._stack = contextlib.ExitStack()
        #: Whether all models train through tfdist, also those made outside of a strategy.
        self.is_for_all = False
        #: How many calls came to tfdist.
        self.calls = 0
        #: tfdist's own options of calls that do not give them, by the name of the method.
        self.defaults: dict[str, dict[str, Any]] = {}

    @contextlib.contextmanager
    def on(self) -> Iterator[None]:
        """Routes calls within a `with` block."""
        with self._lock:
            if self._users == 0:
                methods = {name: self._method(name) for name in trainer_methods.METHODS}
                self._stack.enter_context(trainer_methods.replaced(methods))
                self._stack.enter_context(distributed_variables.convertible())
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._stack.close()

    def _method(self, name: str) -> Callable[..., Any]:
        original = trainer_methods.original(name)

        @functools.wraps(original)
        def method(model: Any, *args: Any, **kwargs: Any) -> Any:
            is_made_under_one = keras_internals.made_under(model) is not None
            if not is_made_under_one and not (self.is_for_all and name in _TRAINING):
                return original(model, *args, **kwargs)
            self.calls += 1
            trainer, options = _entered.get().get((id(model), name), (None, {}))
            trainer = trainer or self._trainer_of(model)
            given = {**self.defaults.get(name, {}), **named(name, args, kwargs), **options}
            with _entering(trainer, name, {}):
                return getattr(trainer, name)(**given)

        return method


def is_overridden(model: Any, name: str) -> bool:
    """Tells whether a method of the model's own has to be called first."""
    return keras_internals.overrides(model, name) and (id(model), name) not in _entered.get()


def call_own(trainer: Any, name: str, args: Any, kwargs: dict[str, Any]) -> Any:
    """Calls a model's own `fit`, say; tfdist's own options are left for the trainer.

    Args:
        trainer: The trainer of a model that overrides the method.
        name: Of the method.
        args: The positional arguments.
        kwargs: The others, of Keras and of tfdist.
    """
    known = inspect.signature(trainer_methods.original(name)).parameters
    options = {key: value for key, value in kwargs.items() if key not in known}
    own = {key: value for key, value in kwargs.items() if key in known}
    with _entering(trainer, name, options):
        return getattr(trainer.model, name)(*args, **own)


def named(name: str, args: Any, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Returns arguments of one of Keras's methods by their names.

    Raises:
        TypeError: There are too many, or one is given twice.
    """
    signature = inspect.signature(trainer_methods.original(name))
    given = signature.bind_partial(None, *args).arguments
    del given[next(iter(signature.parameters))]
    twice = [key for key in given if key in kwargs]
    if twice:
        raise TypeError(f"{name}() got multiple values for argument {twice[0]!r}")
    return given | kwargs


@contextlib.contextmanager
def _entering(trainer: Any, name: str, options: dict[str, Any]) -> Iterator[None]:
    running = {**_entered.get(), (id(trainer.model), name): (trainer, options)}
    token = _entered.set(running)
    try:
        yield
    finally:
        _entered.reset(token)
