"""How is a row run, and when do two outcomes agree?"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import warnings
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tfdist
from parity.case import Api, Case

SEED = 7
gc.freeze()  # what is there now stays: collecting garbage between rows need not look at it


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a row came to. Made of NumPy arrays and texts, so that it can travel.

    Attributes:
        variables: Path and value: weights, other states of the model, states of the optimizer.
        histories: One `History.history` for each `fit`.
        evaluated: What `evaluate` returned as a dict.
        predicted: What `predict` returned, flattened.
        error: Type and message of the exception that ended the row, or two empty texts.
    """

    variables: list[tuple[str, np.ndarray]] = dataclasses.field(default_factory=list)
    histories: list[dict[str, list[Any]]] = dataclasses.field(default_factory=list)
    evaluated: dict[str, Any] = dataclasses.field(default_factory=dict)
    predicted: list[np.ndarray] = dataclasses.field(default_factory=list)
    error: tuple[str, str] = ("", "")


def stock(strategy: Any = None) -> Api:
    """Stock Keras, on one device, or under a strategy."""
    return Api(
        scope=strategy.scope if strategy else contextlib.nullcontext,
        fit=lambda model, **arguments: model.fit(**arguments),
        evaluate=lambda model, **arguments: model.evaluate(**arguments),
        predict=lambda model, **arguments: model.predict(**arguments),
    )


def distributed(strategy: Any, **shapes: Any) -> Api:
    """tfdist under a strategy, with arguments that say which shapes batches are given."""

    def with_shapes(function: Any) -> Any:
        return functools.partial(function, **shapes)

    return Api(
        scope=strategy.scope,
        fit=with_shapes(tfdist.fit),
        evaluate=with_shapes(tfdist.evaluate),
        predict=with_shapes(tfdist.predict),
    )


def api_of(strategy: Any, case: Case, *, is_stock: bool) -> Api:
    """What trains a row under a strategy: stock Keras, or tfdist in the shapes of the row."""
    return stock(strategy) if is_stock else distributed(strategy, **case.shapes())


def run(case: Case, api: Api) -> Outcome:
    """Runs a row from the seed on; an exception is an outcome too."""
    keras.utils.clear_session(free_memory=False)
    keras.config.set_floatx(case.floatx)
    keras.config.set_dtype_policy(case.floatx)
    keras.utils.set_random_seed(SEED)
    try:
        # What Keras warns of on one device (a variable without gradients) is no error here.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _run(case, api)
    except Exception as error:
        return Outcome(error=(type(error).__name__, str(error)))
    finally:
        gc.collect()


def _run(case: Case, api: Api) -> Outcome:
    with api.scope():
        model = case.build()
    arguments = case.arguments()
    histories = case.program(model, arguments, api)
    model = histories[-1].model  # a row may go on with a loaded one
    evaluated, predicted = {}, []
    own = {"x", "y", "sample_weight", "batch_size", "verbose"}
    scored = {name: value for name, value in arguments.items() if name in own}
    if "evaluate" in case.then:
        evaluated = api.evaluate(model, return_dict=True, **scored)
    if "predict" in case.then:
        scored = {name: scored[name] for name in scored if name not in ("y", "sample_weight")}
        predicted = _dense(keras.tree.flatten(api.predict(model, **scored)))
    if case.check is not None:
        case.check(model)
    return Outcome(
        variables=variables_of(model),
        histories=[dict(history.history) for history in histories],
        evaluated={name: np.asarray(value) for name, value in evaluated.items()},
        predicted=[np.asarray(value) for value in predicted],
    )


def _dense(outputs: list[Any]) -> list[Any]:
    """Puts the values, and the length of each row, in the place of a ragged output."""
    pairs = [
        (out.flat_values, *out.nested_row_lengths()) if isinstance(out, tf.RaggedTensor) else (out,)
        for out in outputs
    ]
    return [value for pair in pairs for value in pair]


def variables_of(model: keras.Model) -> list[tuple[str, np.ndarray]]:
    """Returns weights, random states and optimizer states with their paths."""
    states = getattr(model.optimizer, "variables", [])
    return [(variable.path, np.asarray(variable)) for variable in [*model.variables, *states]]


def differences(outcome: Outcome, oracle: Outcome, tolerance: float) -> list[str]:
    """Says where an outcome differs from the oracle's; an empty list where it does not."""
    if outcome.error != ("", "") or oracle.error != ("", ""):
        return [f"error {outcome.error}, on one device {oracle.error}"]
    found = []
    pairs = [
        # By order: the names of some states depend on the strategy that made them.
        ("", _by_order(outcome.variables, oracle.variables), _by_order(oracle.variables)),
        ("evaluate: ", outcome.evaluated, oracle.evaluated),
        ("predict: ", _by_number(outcome.predicted), _by_number(oracle.predicted)),
    ]
    for number, (mine, theirs) in enumerate(zip(outcome.histories, oracle.histories, strict=True)):
        pairs.append((f"history {number}: ", mine, theirs))
    for prefix, mine, theirs in pairs:
        found += _different_entries(prefix, mine, theirs, tolerance)
    return found


def _by_number(values: list[Any]) -> dict[str, Any]:
    return {str(number): value for number, value in enumerate(values)}


def _by_order(variables: list[Any], named: list[Any] | None = None) -> dict[str, Any]:
    """Returns the values by number and path; the paths are those of `named`, where it is given."""
    paths = [path for path, _ in (named or variables)]
    paths += ["?"] * (len(variables) - len(paths))
    return {f"{i}: {paths[i]}": value for i, (_, value) in enumerate(variables)}


def _different_entries(prefix: str, mine: Any, theirs: Any, tolerance: float) -> list[str]:
    if list(mine) != list(theirs):
        return [f"{prefix}names {list(mine)}, on one device {list(theirs)}"]
    found = []
    for name, value in theirs.items():
        size = distance(mine[name], value)
        exact = np.issubdtype(np.asarray(value).dtype, np.integer) or "dynamic_scale" in name
        if not size <= (0 if exact else tolerance):
            found.append(f"{prefix}{name} by {size:.1e}")
    return found


def distance(mine: Any, theirs: Any) -> float:
    """Returns the largest difference, relative to the larger of 1 and the number; NaN is NaN."""
    if isinstance(theirs, dict):
        return max((distance(mine[name], theirs[name]) for name in theirs), default=0.0)
    mine, theirs = np.asarray(mine, np.float64), np.asarray(theirs, np.float64)
    if mine.shape != theirs.shape:
        return np.inf
    same = (mine == theirs) | (np.isnan(mine) & np.isnan(theirs))
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0, np.abs(mine - theirs) / np.maximum(1, np.abs(theirs)))
    return float(np.max(np.where(np.isnan(gap), np.inf, gap), initial=0.0))
