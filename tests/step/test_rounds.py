"""Do calls of the loop end where rounds do, unless something else asks for an end?"""

from __future__ import annotations

import types

import keras
import pytest

from tfdist.loop import pacing
from tfdist.loop.pacing import Pace, end_from, end_near


@pytest.mark.parametrize(
    ("steps", "begun", "size", "expected"),
    [
        (1, 0, 3, 3),  # less than a round: a whole one
        (3, 0, 3, 3),
        (8, 0, 3, 6),
        (8, 2, 3, 7),  # the rest of a round, and two whole ones
        (1, 2, 3, 1),
        (1, 8, 3, 1),  # whole rounds are counted too
        (5, 0, 1, 5),
    ],
)
def test_end_near(steps, begun, size, expected):
    assert end_near(steps, begun=begun, size=size) == expected
    assert (begun + expected) % size == 0


@pytest.mark.parametrize(
    ("steps", "begun", "size", "expected"),
    [(1, 0, 3, 3), (3, 0, 3, 3), (4, 0, 3, 6), (1, 2, 3, 1), (2, 2, 3, 4), (5, 0, 1, 5)],
)
def test_end_from(steps, begun, size, expected):
    assert end_from(steps, begun=begun, size=size) == expected
    assert (begun + expected) % size == 0


def plan(*, pace=8, limit=None, is_fixed=False, begun=0, **compiled):
    rounds = types.SimpleNamespace(size=3, is_fixed=is_fixed, begun=lambda: begun)
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(**compiled)
    vars(model)["_tfdist_paces"] = {"train": Pace(steps=pace)}
    callbacks = keras.callbacks.CallbackList(limit or [], add_history=True, model=model)
    return pacing.batches_between_events(model, callbacks, phase="train", rounds=rounds)


def saving(every):
    return keras.callbacks.ModelCheckpoint("never.keras", save_freq=every)


def test_the_pace_is_rounded_to_whole_rounds():
    assert plan(pace=8).steps == 6
    assert plan(pace=8, begun=1).steps == 8
    found = plan(pace=1, begun=1)
    found.pace._calls = 1
    assert found.steps == 2
    assert found.after(2, 0.2, done=2) == 3  # two in a fifth of a second: as many again, rounded


def test_what_asks_for_an_end_gets_it():
    assert plan(limit=[saving(4)]).steps == 4
    found = plan(steps_per_execution=2)
    assert (found.steps, found.event_steps, found.bounded(2, done=0)) == (2, 2, 2)


def test_rounds_that_may_not_end_early_do_not():
    found = plan(limit=[saving(4)], is_fixed=True)
    assert found.bounded(found.steps, done=0) == 6
    found = plan(is_fixed=True, steps_per_execution=2)
    assert (found.steps, found.event_steps) == (3, 3)
    assert found.bounded(3, done=3) == 3
