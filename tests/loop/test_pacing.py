"""Do calls of the loop end where they have to, and no sooner?"""

from __future__ import annotations

import types

import keras
import numpy as np
import pytest

from tfdist.compat.notes import set_note
from tfdist.loop import pacing
from tfdist.loop.pacing import Pace, Plan, end_from, end_near


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
    set_note(model, "paces", {"train": Pace(steps=pace)})
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
    assert (found.steps, found.event_steps, found.next_steps(0, left=None)) == (2, 2, 2)


def test_rounds_that_may_not_end_early_do_not():
    found = plan(limit=[saving(4)], is_fixed=True)
    assert found.next_steps(0, left=None) == 6
    assert found.next_steps(0, left=4) == 4  # a round ends with its epoch
    found = plan(is_fixed=True, steps_per_execution=2)
    assert (found.steps, found.event_steps) == (3, 3)
    assert found.next_steps(3, left=None) == 3


def test_what_is_done_between_two_calls_bounds_them():
    found = Plan(8, None, False, None, bounds=[lambda: None, lambda: 5, lambda: 7])
    assert [found.next_steps(0, left=left) for left in (None, 20, 3)] == [5, 5, 3]
    fixed = Plan(8, 8, False, None, bounds=[lambda: 5])
    assert fixed.next_steps(0, left=None) == 8  # it is done at the next event


def model_with(**options):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", **options)
    return model


def plan_of(callbacks, *, phase="train", **options):
    heard = types.SimpleNamespace(callbacks=callbacks)
    return pacing.batches_between_events(model_with(**options), heard, phase=phase)


@pytest.mark.parametrize(
    ("callbacks", "options", "event_steps", "is_watched"),
    [
        ([], {}, None, False),
        (["EarlyStopping"], {}, None, False),
        (["TerminateOnNaN"], {}, None, True),
        ([], {"steps_per_execution": 5}, 5, False),
        ([], {"run_eagerly": True}, 1, False),
    ],
)
def test_plan(callbacks, options, event_steps, is_watched):
    plan = plan_of([getattr(keras.callbacks, name)() for name in callbacks], **options)
    assert (plan.event_steps, plan.is_watched) == (event_steps, is_watched)


def test_plan_of_a_listener_is_one_batch_at_a_time():
    class Listener(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            pass

    plan = plan_of([Listener()])
    assert (plan.steps, plan.event_steps, plan.is_watched) == (1, 1, True)
    assert plan.after(1, 1e-6, done=1) == 1


def saved_at(callback, epochs, *, most):
    """Lets a callback with `save_freq` see events as they come; returns when it would save."""
    saved = []
    for number, batches in enumerate(epochs):
        plan, done = plan_of([callback]), 0
        plan.pace.steps = most
        steps = min(most, plan.limit(0))
        while done < batches:
            done = min(done + steps, batches)
            if callback._should_save_on_batch(done - 1):
                saved.append((number, done))
            steps = plan.limit(done) if most > 1 else 1
        if isinstance(callback, keras.callbacks.BackupAndRestore):
            callback._last_batch_seen = 0  # as its on_epoch_end does
    return saved


@pytest.mark.parametrize("name", ["ModelCheckpoint", "BackupAndRestore"])
@pytest.mark.parametrize("save_freq", [1, 3, 4, 7, 20])
@pytest.mark.parametrize("epochs", [[8, 8, 8], [2, 9, 5]])
def test_saving_at_every_so_many_batches_is_not_missed(name, save_freq, epochs):
    kind = getattr(keras.callbacks, name)
    one_by_one = saved_at(kind("saved.keras", save_freq=save_freq), epochs, most=1)
    assert saved_at(kind("saved.keras", save_freq=save_freq), epochs, most=10_000) == one_by_one


def test_nan_stops_the_loop_where_a_callback_asks_for_it():
    heard = types.SimpleNamespace(callbacks=[keras.callbacks.TerminateOnNaN()])
    assert pacing.stops_at_nan_of(model_with(), heard)
    assert not pacing.stops_at_nan_of(model_with(), types.SimpleNamespace(callbacks=[]))
    # Several steps an event were asked for: it looks at each event.
    assert not pacing.stops_at_nan_of(model_with(steps_per_execution=2), heard)


@pytest.mark.parametrize(("has_others", "secs"), [(False, 0.2), (True, 0.5)])
def test_workers_run_longer_between_two_agreements(has_others, secs):
    class Workers:
        def __init__(self):
            self.has_others = has_others

        def gather(self, *wishes):
            return np.array([wishes])

    pace = Pace()
    Plan(1, None, False, pace).agreed(Workers())
    for _ in range(4):
        pace.learn(10, 0.1)
    assert pace.steps == round(secs / 0.01)
