"""Is exactly that callback heard batch by batch which needs it?"""

from __future__ import annotations

import keras
import pytest

from tfdist.loop import listeners
from tfdist.loop.listeners import Interest


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
