"""Does nothing get lost that rounding takes from gradients?

A linear model's gradient does not depend on its weights, so that what should have travelled in all
steps is known exactly: what did travel and what the replicas still hold have to add up to it.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import worlds

import tfdist
from tfdist import testing
from tfdist.communication.compression import Reduction
from tfdist.step import error_feedback

_STEPS, _ROWS = 9, 4
_REDUCTION = Reduction("bfloat16", error_feedback=True)
# Rounded to bfloat16 the mean of a replica's rows loses up to 0.4 % of each step.
_X = np.random.default_rng(0).uniform(1, 2, (_STEPS * _ROWS, 3)).astype("float32")


def build(optimizer: Any = None) -> keras.Model:
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer or keras.optimizers.SGD(1.0), loss=lambda y, y_pred: y_pred[:, 0])
    model.set_weights([np.zeros((3, 1), "float32")])
    return model


def distributed(replicas: int = 2, optimizer: Any = lambda: None) -> keras.Model:
    with worlds.local_strategy(replicas).scope():
        return build(optimizer())


def fit(
    model: keras.Model, reduction: Any = _REDUCTION, rows: int = len(_X), **kwargs: Any
) -> np.ndarray:
    kwargs = {"batch_size": _ROWS, "shuffle": False, "verbose": 0, **kwargs}
    tfdist.fit(model, _X[:rows], np.zeros(rows), reduction=reduction, **kwargs)
    return np.asarray(model.weights[0], "float64")[:, 0]


def held(model: keras.Model) -> np.ndarray:
    """Returns what all local replicas hold of the kernel."""
    [variable] = error_feedback.residuals_of(model)
    parts = model.distribute_strategy.experimental_local_results(variable)
    return sum(part.numpy().astype("float64") for part in parts)[:, 0]


_EXACT = -_X.astype("float64").reshape(_STEPS, _ROWS, 3).mean(axis=1).sum(axis=0)


@pytest.mark.parametrize("wire", ["bfloat16", "float16"])
@pytest.mark.parametrize("replicas", [2, 4])
def test_what_travelled_and_what_is_held_add_up(wire, replicas, logical_cpus):
    model = distributed(replicas)
    gone = fit(model, Reduction(wire, error_feedback=True))
    assert held(model).any()
    # Partial sums are rounded too, which nobody is told of: one rounding of a sum, each step.
    rounding = {"bfloat16": 2.0**-8, "float16": 2.0**-11}[wire]
    exact = gone - held(model)  # SGD has taken what travelled off the weights
    np.testing.assert_allclose(exact, _EXACT, rtol=0, atol=1e-5 + _STEPS * rounding)
    assert np.abs(held(model)).max() < 2 * rounding


def test_small_gradients_are_not_lost_for_good(logical_cpus):
    """A replica's share below half a unit of its wire's type would always be rounded alike."""
    constant = np.full((len(_X), 3), 1 + 2.0**-10, "float32")
    expected = -_STEPS * (1 + 2.0**-10)
    found = {}
    for name, reduction in (("without", Reduction("bfloat16")), ("with", _REDUCTION)):
        model = distributed()
        options = {"batch_size": _ROWS, "shuffle": False, "verbose": 0, "epochs": 9}
        tfdist.fit(model, constant, np.zeros(len(_X)), reduction=reduction, **options)
        found[name] = abs(float(np.asarray(model.weights[0])[0, 0]) - 9 * expected)
    assert found["without"] == pytest.approx(81 * 2.0**-10, rel=1e-3)
    assert found["with"] < 2.0**-7  # what is held is less than one unit


def test_infinities_are_not_held(logical_cpus):
    model = distributed()
    x = _X.copy()
    x[0] = np.inf
    kwargs = {"batch_size": _ROWS, "shuffle": False, "verbose": 0, "on_nan": "ignore"}
    tfdist.fit(model, x, np.zeros(len(x)), reduction=_REDUCTION, **kwargs)
    assert np.isfinite(held(model)).all()


def test_without_it_nothing_is_held(logical_cpus):
    model = distributed()
    fit(model)
    assert len(error_feedback.residuals_of(model)) == 1
    fit(model, "bfloat16")
    assert not error_feedback.residuals_of(model)
    before = fit(model)
    assert np.isfinite(before).all()
    assert held(model).any()


def test_accumulated_gradients_are_rounded_once_an_update(logical_cpus):
    model = distributed(optimizer=lambda: keras.optimizers.SGD(1.0, gradient_accumulation_steps=3))
    gone = fit(model)
    exact = 3 * gone - held(model)  # the mean of three steps is taken after the sum
    np.testing.assert_allclose(exact, _EXACT, rtol=0, atol=1e-5 + 3 * 3 * 2.0**-8)


class Stop(Exception):
    """Ends a run in its midst."""


def _on_a_worker(folder: str) -> list[Any]:
    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    found = []
    for number, epochs in enumerate(([3], [1, 3])):
        for until in epochs:
            with strategy.scope():
                model = build()
            fit(model, epochs=until, checkpoint_dir=f"{folder}/{number}", save_every=4)
        [rest] = error_feedback.residuals_of(model)
        [own] = strategy.experimental_local_results(rest)
        found.append((np.asarray(model.weights[0]).tolist(), own.numpy().tolist()))
    return found


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_two_workers_that_stop_and_go_on(tmp_path):
    first, second = testing.run_workers(_on_a_worker, args=(str(tmp_path),), timeout_secs=150)
    for whole, parts in (first, second):
        assert whole == parts
    assert first[0][0] == second[0][0]
    assert first[0][1] != second[0][1]  # each holds the rest of its own rows


@pytest.mark.slow
def test_on_other_replicas_the_sum_of_the_rests_goes_on(tmp_path, logical_cpus):
    model = distributed(4)
    fit(model, checkpoint_dir=tmp_path, epochs=1)
    before = held(model)
    model = distributed(2)
    fit(model, checkpoint_dir=tmp_path, epochs=1)  # goes on from the end: no step is left
    np.testing.assert_allclose(held(model), before, rtol=1e-6)
    assert before.any()


def scaled() -> Any:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))


@pytest.mark.parametrize(
    ("optimizer", "kwargs", "match"),
    [
        (lambda: None, {"on_nan": "skip"}, "on_nan='skip'"),
        (lambda: None, {"local_steps": 2}, "local_steps"),
        (scaled, {}, "LossScaleOptimizer"),
    ],
)
def test_what_cannot_be_is_refused(optimizer, kwargs, match, logical_cpus):
    with pytest.raises(ValueError, match=f"error_feedback=True cannot be combined with {match}"):
        fit(distributed(optimizer=optimizer), **kwargs)


def test_own_loops_are_told_where_to_go(logical_cpus):
    strategy = worlds.local_strategy(2)
    model = distributed()

    def replica_step() -> None:
        variables = model.trainable_variables
        gradients = [tf.ones(v.shape) for v in variables]
        tfdist.apply_gradients(model.optimizer, gradients, variables, reduction=_REDUCTION)

    with pytest.raises(ValueError, match="needs fit"):
        strategy.run(replica_step)
