"""tests of tfdist/training/parted.py; what workers are told is in test_shared_events.py"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
from parity import worlds

from tfdist.communication.agreement import Agreement
from tfdist.training import parted


class _Apart(Agreement):
    """What two workers tell each other, where the other one holds something else in a place."""

    def __init__(self, strategy: Any, place: int | None = None) -> None:
        super().__init__(strategy, has_others=False)
        self.place = place

    def gather(self, *values: int) -> np.ndarray:
        rows = np.array([values, values], np.int64)
        if self.place is not None:
            rows[1, self.place] += 1
        return rows


@pytest.fixture
def model() -> keras.Model:
    with worlds.local_strategy(2).scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(keras.optimizers.SGD(momentum=0.9), "mse")
        model.optimizer.build(model.trainable_variables)
    return model


def test_the_variable_that_differs_is_named(model):
    strategy = worlds.local_strategy(2)
    assert parted.Comparison(model, strategy, _Apart(strategy)).parted() == []
    [found] = parted.Comparison(model, strategy, _Apart(strategy, place=1)).parted()
    assert found.variable is model.trainable_variables[1]


def test_variables_are_traced_once_until_there_are_others(model, monkeypatch):
    seen = []
    number_of = parted.number_of
    monkeypatch.setattr(parted, "number_of", lambda value: seen.append(0) or number_of(value))
    strategy = worlds.local_strategy(2)
    comparison = parted.Comparison(model, strategy, _Apart(strategy))
    comparison.parted()
    first = len(seen)
    assert first >= len(model.variables) + len(model.optimizer.variables)
    model.trainable_variables[0].assign(np.ones([3, 2]))
    comparison.parted()
    assert len(seen) == first
    with strategy.scope():
        model.compile(keras.optimizers.Adam(), "mse")
        model.optimizer.build(model.trainable_variables)
    comparison.parted()
    assert len(seen) > first
