"""Is exactly that callback heard batch by batch which needs it?"""

from __future__ import annotations

import types

import keras
import pytest

from tfdist.communication.workers import Calls
from tfdist.loop import listeners, pacing
from tfdist.loop.listeners import Interest
from tfdist.loop.pacing import Pace, Plan


def make(name, **kwargs):
    """Makes one of Keras's callbacks, with what it asks for."""
    needed = {
        "BackupAndRestore": {"backup_dir": "backup"},
        "CSVLogger": {"filename": "log.csv"},
        "LearningRateScheduler": {"schedule": lambda epoch: 0.1},
        "ModelCheckpoint": {"filepath": "model.keras"},
    }
    return getattr(keras.callbacks, name)(**{**needed.get(name, {}), **kwargs})


def progress(verbose, *, called_in_fit=False):
    callback = keras.callbacks.ProgbarLogger()
    callback.verbose = verbose
    if called_in_fit:
        callback.on_train_begin()
    return callback


class OwnBatchHook(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        pass


class OwnEpochHook(keras.callbacks.Callback):
    def on_epoch_end(self, epoch, logs=None):
        pass


class OwnGenericHook(keras.callbacks.Callback):
    def on_batch_end(self, batch, logs=None):
        pass


class QuietCheckpoint(keras.callbacks.ModelCheckpoint):
    """A subclass that changes nothing about batches."""


class LoudCheckpoint(keras.callbacks.ModelCheckpoint):
    def on_train_batch_end(self, batch, logs=None):
        super().on_train_batch_end(batch, logs)


# What each of Keras's callbacks wants of the batches in training, as it is made by default.
BY_DEFAULT = {
    "BackupAndRestore": Interest.NONE,
    "CSVLogger": Interest.NONE,
    "Callback": Interest.NONE,
    "EarlyStopping": Interest.NONE,
    "History": Interest.NONE,
    "LambdaCallback": Interest.NONE,
    "LearningRateScheduler": Interest.NONE,
    "ModelCheckpoint": Interest.NONE,
    "ProgbarLogger": Interest.LOGS,
    "ReduceLROnPlateau": Interest.NONE,
    "RemoteMonitor": Interest.NONE,
    "SwapEMAWeights": Interest.NONE,
    "TensorBoard": Interest.NONE,
    "TerminateOnNaN": Interest.LOGS,
}
NOT_MADE_HERE = {
    "CallbackList",  # not a callback, but a list of them
    "OrbaxCheckpoint",  # needs Orbax to be made
}


def test_every_callback_that_keras_ships_is_known():
    shipped = {
        name
        for name in dir(keras.callbacks)
        if isinstance(getattr(keras.callbacks, name), type)
    }
    assert shipped - NOT_MADE_HERE == set(BY_DEFAULT)


@pytest.mark.parametrize("name", BY_DEFAULT)
def test_interest_of_what_keras_ships(name):
    assert listeners.interest_of(make(name), phase="train") is BY_DEFAULT[name]
    in_test = Interest.LOGS if name == "ProgbarLogger" else Interest.NONE
    assert listeners.interest_of(make(name), phase="test") is in_test


@pytest.mark.parametrize(
    ("callback", "in_train", "in_test"),
    [
        (lambda: make("ModelCheckpoint", save_freq=3), Interest.SAVING, Interest.NONE),
        (lambda: make("BackupAndRestore", save_freq=3), Interest.SAVING, Interest.NONE),
        (lambda: make("TensorBoard", update_freq=3), Interest.EVERY, Interest.EVERY),
        (lambda: make("TensorBoard", update_freq="batch"), Interest.EVERY, Interest.EVERY),
        (lambda: make("LambdaCallback", on_epoch_end=print), Interest.NONE, Interest.NONE),
        (lambda: make("LambdaCallback", on_train_batch_end=print), Interest.EVERY, Interest.NONE),
        (lambda: progress(1), Interest.LOGS, Interest.LOGS),
        (lambda: progress(1, called_in_fit=True), Interest.LOGS, Interest.NONE),
        (lambda: progress(2), Interest.NONE, Interest.NONE),
        (OwnBatchHook, Interest.EVERY, Interest.NONE),
        (OwnEpochHook, Interest.NONE, Interest.NONE),
        (OwnGenericHook, Interest.EVERY, Interest.NONE),
        (lambda: QuietCheckpoint("model.keras"), Interest.NONE, Interest.NONE),
        (lambda: LoudCheckpoint("model.keras"), Interest.EVERY, Interest.NONE),
    ],
)
def test_interest_follows_how_a_callback_was_set_up(callback, in_train, in_test):
    assert listeners.interest_of(callback(), phase="train") is in_train
    assert listeners.interest_of(callback(), phase="test") is in_test


def test_a_hook_that_was_put_on_the_object_is_heard():
    callback = keras.callbacks.Callback()
    callback.on_test_batch_begin = print
    assert listeners.interest_of(callback, phase="test") is Interest.EVERY
    assert listeners.interest_of(callback, phase="train") is Interest.NONE


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
    plan = plan_of([make(name) for name in callbacks], **options)
    assert (plan.event_steps, plan.is_watched) == (event_steps, is_watched)


def test_plan_of_a_listener_is_one_batch_at_a_time():
    plan = plan_of([OwnBatchHook()])
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
    one_by_one = saved_at(make(name, save_freq=save_freq), epochs, most=1)
    found = saved_at(make(name, save_freq=save_freq), epochs, most=10_000)
    assert found == one_by_one


def test_nan_stops_the_loop_where_a_callback_asks_for_it():
    heard = types.SimpleNamespace(callbacks=[make("TerminateOnNaN")])
    assert pacing.stops_at_nan_of(model_with(), heard)
    assert not pacing.stops_at_nan_of(model_with(), types.SimpleNamespace(callbacks=[]))
    # Several steps an event were asked for: it looks at each event.
    assert not pacing.stops_at_nan_of(model_with(steps_per_execution=2), heard)


@pytest.mark.parametrize(("has_others", "secs"), [(False, 0.2), (True, 0.5)])
def test_workers_run_longer_between_two_agreements(has_others, secs):
    class Agreement:
        def __init__(self):
            self.has_others = has_others

        def plan(self, **wishes):
            return Calls(wishes["steps"], None, wishes["is_watched"])

    pace = Pace()
    Plan(1, None, False, pace).agreed(Agreement())
    for _ in range(4):
        pace.learn(10, 0.1)
    assert pace.steps == round(secs / 0.01)
