"""How are `fit`, `evaluate` and `predict` called?  As functions of a model, which has one trainer.

They are the methods of `Trainer`, taking the model instead of the trainer.

Synopsis:

    >>> import keras, numpy as np, tfdist
    >>> with tfdist.get_strategy("2xcpu").scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     model.compile("adam", "mse")
    >>> history = tfdist.fit(model, np.ones((5, 4)), np.ones(5), batch_size=3, epochs=2, verbose=0)
    >>> sorted(history.history), history.epoch
    (['loss'], [0, 1])
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec, TypeVar

import keras

from tfdist.training.trainer import Trainer, trainer_of

_P = ParamSpec("_P")
_T = TypeVar("_T")
_OF_MODEL = (
    "Args:\n            model: A Keras model, compiled for `fit` and `evaluate`; made inside\n"
    "                `strategy.scope()` where it trains on several replicas.\n"
)


def _of_model(
    method: Callable[Concatenate[Trainer, _P], _T],
) -> Callable[Concatenate[keras.Model, _P], _T]:
    """Returns a method of `Trainer` as a function of a model, which keeps one trainer."""

    @functools.wraps(method)
    def function(model: keras.Model, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        refuse_unknown(method, kwargs)
        return method(trainer_of(model), *args, **kwargs)

    first, *others = inspect.signature(method).parameters.values()
    model = first.replace(name="model", annotation="keras.Model")
    signature = inspect.signature(method).replace(parameters=[model, *others])
    function.__doc__ = (method.__doc__ or "").replace("Args:\n", _OF_MODEL, 1)
    function.__qualname__, function.__module__ = method.__name__, __name__
    vars(function)["__signature__"] = signature
    return function


def refuse_unknown(method: Callable[..., Any], kwargs: dict[str, Any]) -> None:
    """Raises a TypeError for a keyword argument that the method lacks, with the nearest name."""
    names = list(inspect.signature(method).parameters)[1:]
    for name in kwargs:
        if name not in names:
            alike = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {alike[0]!r}?" if alike else f"it takes {', '.join(names)}."
            raise TypeError(f"tfdist.{method.__name__} has no argument {name!r}; {hint}")


fit = _of_model(Trainer.fit)
evaluate = _of_model(Trainer.evaluate)
predict = _of_model(Trainer.predict)
train_on_batch = _of_model(Trainer.train_on_batch)
test_on_batch = _of_model(Trainer.test_on_batch)
predict_on_batch = _of_model(Trainer.predict_on_batch)
