"""Who listens to single batches?

A callback with a hook for batches listens, and gets each batch as an event. But some of Keras's own
callbacks need only the logs, or an event every n batches.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any

import keras

from tfdist.compat import keras_internals

_HOOKS = {
    "train": ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
    "predict": ("on_predict_batch_begin", "on_predict_batch_end"),
}


class Interest(enum.Enum):
    """What a callback needs to know of the batches of an epoch."""

    NONE = "none"  # nothing
    LOGS = "logs"  # the logs, at whatever events there are
    SAVING = "saving"  # an event, with logs, every n batches
    EVERY = "every"  # each batch


def interest_of(callback: Any, *, phase: str) -> Interest:
    """Tells what a callback needs to know of the batches of a phase.

    Args:
        callback: A Keras callback, or anything with its hooks.
        phase: "train", "test" or "predict".

    >>> interest_of(keras.callbacks.EarlyStopping(), phase="train").name
    'NONE'
    >>> interest_of(keras.callbacks.ModelCheckpoint("a.keras", save_freq=9), phase="train").name
    'SAVING'
    """
    if any(name in vars(callback) for name in _HOOKS[phase]):
        return Interest.EVERY  # such as a LambdaCallback with a batch hook
    found = {_definer(type(callback), name) for name in _HOOKS[phase]}
    found.discard(keras.callbacks.Callback)
    if not found:
        return Interest.NONE
    if len(found) > 1 or not found <= _KNOWN.keys():
        return Interest.EVERY
    return _KNOWN[found.pop()](callback, phase)


def _definer(kind: type, name: str) -> type:
    return next(base for base in kind.__mro__ if name in vars(base))


def _of_progress(callback: Any, phase: str) -> Interest:
    is_silent = phase == "test" and keras_internals.is_bar_of_fit(callback)
    # With verbose=1 only, the bar is drawn during an epoch.
    return Interest.LOGS if callback.verbose == 1 and not is_silent else Interest.NONE


def _of_saving(callback: Any, phase: str) -> Interest:
    if callback.save_freq == "epoch":
        return Interest.NONE
    is_known = callback.save_freq and keras_internals.batches_of_saving(callback) is not None
    return Interest.SAVING if is_known else Interest.EVERY


def _of_tensorboard(callback: Any, phase: str) -> Interest:
    by_epoch = callback.update_freq == "epoch" and not keras_internals.traces_batches(callback)
    return Interest.NONE if by_epoch else Interest.EVERY


# Keras's own callbacks that have batch hooks, but do not need every batch.
_KNOWN: dict[type, Callable[[Any, str], Interest]] = {
    keras.callbacks.BackupAndRestore: _of_saving,
    keras.callbacks.ModelCheckpoint: _of_saving,
    keras.callbacks.ProgbarLogger: _of_progress,
    keras.callbacks.TensorBoard: _of_tensorboard,
    keras.callbacks.TerminateOnNaN: lambda callback, phase: Interest.LOGS,
}
