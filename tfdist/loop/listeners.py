"""Who listens to single batches, and how many may therefore run between two events?

A `steps_per_execution` given to `compile` is obeyed. Where it was left at 1 and no callback looks
at single batches, many steps run between two events, and nobody can tell the difference. A
callback that saves every so many batches bounds their number; any other one that brings a hook for
batches listens, and gets each batch as an event.
"""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import Callable
from typing import Any

import keras

from tfdist.communication.agreement import Agreement
from tfdist.loop.pace import SHARED_TARGET_SECS, Pace
from tfdist.step.rounds import Rounds, end_from, end_near

_HOOKS = {
    "train": ("on_train_batch_begin", "on_train_batch_end", "on_batch_begin", "on_batch_end"),
    "test": ("on_test_batch_begin", "on_test_batch_end"),
    "predict": ("on_predict_batch_begin", "on_predict_batch_end"),
}


class Interest(enum.Enum):
    """What a callback wants of the batches of an epoch."""

    NONE = "none"  # nothing
    LOGS = "logs"  # the logs at the events that there are
    SAVING = "saving"  # an event, with logs, at every so many batches
    EVERY = "every"  # each batch


@dataclasses.dataclass
class Plan:
    """How many steps the next call of the loop runs.

    Attributes:
        steps: Steps of the next call.
        event_steps: Steps that an event stands for, where `compile` fixed them; else None.
        is_watched: Whether somebody reads the logs of a batch event.
        pace: Chooses `steps` where nobody fixed them.
        limit: Takes the number of steps done in the epoch; returns how many may run until the next
            event, or None for any number.
        rounds: The rounds of steps that training goes by, or None.
        begun: Steps of a round that were done when the epoch began.
    """

    steps: int
    event_steps: int | None
    is_watched: bool
    pace: Pace | None
    limit: Callable[[int], int | None] = lambda done: None
    rounds: Rounds | None = None
    begun: int = 0

    def agreed(self, agreement: Agreement) -> Plan:
        """Returns the plan that all workers follow together."""
        calls = agreement.plan(
            steps=self.steps, event_steps=self.event_steps, is_watched=self.is_watched
        )
        if self.pace and agreement.has_others:
            self.pace.target_secs = SHARED_TARGET_SECS
        return dataclasses.replace(
            self, steps=calls.steps, event_steps=calls.event_steps, is_watched=calls.is_watched,
            pace=None if calls.event_steps else self.pace,
        )

    def after(self, ran: int, secs: float, *, done: int) -> int:
        """Returns the number of steps for the next call.

        Args:
            ran: Steps of the call that has just ended.
            secs: Its time in seconds.
            done: Steps of the epoch up to now.
        """
        if self.pace is None:
            return self.steps
        self.pace.learn(ran, secs)
        return self.paced(done)

    def paced(self, done: int) -> int:
        """Returns how many steps the pace gives the next call, after `done` steps of the epoch."""
        steps = self.pace.steps if self.pace else self.steps
        if self.rounds is not None:
            steps = end_near(steps, begun=self.begun + done, size=self.rounds.size)
        return min(steps, self.limit(done) or steps)

    def bounded(self, steps: int, *, done: int) -> int:
        """Returns at least so many steps, where a round may not end early: those to its end."""
        if self.rounds is None or not self.rounds.is_fixed:
            return steps
        return end_from(steps, begun=self.begun + done, size=self.rounds.size)


def batches_between_events(
    model: keras.Model, callbacks: Any, *, phase: str, rounds: Rounds | None = None
) -> Plan:
    """Decides how many steps may run at a time in an epoch.

    Args:
        model: The compiled model.
        callbacks: The `CallbackList` of the run.
        phase: "train", "test" or "predict".
        rounds: The rounds of steps that training goes by, or None.

    Returns:
        The plan: fixed where `steps_per_execution` was given or somebody listens to batches.
    """
    interests = {id(c): interest_of(c, phase=phase) for c in callbacks.callbacks}
    is_watched = set(interests.values()) != {Interest.NONE} and bool(interests)
    fixed = model.steps_per_execution if model.compiled else 1
    is_eager = model.compiled and model.run_eagerly
    begun = rounds.begun() if rounds else 0
    if fixed > 1 or is_eager or Interest.EVERY in interests.values():
        if rounds and rounds.is_fixed:  # as if steps_per_execution were whole rounds
            fixed = end_from(fixed, begun=0, size=rounds.size)
        return Plan(fixed, fixed, is_watched, None, rounds=rounds, begun=begun)
    saving = [c for c in callbacks.callbacks if interests[id(c)] is Interest.SAVING]

    def limit(done: int) -> int | None:
        return min((_until_saving(callback, done) for callback in saving), default=None)

    pace = _paces(model).setdefault(phase, Pace())
    plan = Plan(pace.steps, None, is_watched, pace, limit, rounds, begun)
    return dataclasses.replace(plan, steps=plan.paced(0))


def stops_at_nan_of(model: keras.Model, callbacks: Any) -> bool:
    """Tells whether a callback wants training to end with the step whose loss is not finite."""
    is_fixed = model.compiled and model.steps_per_execution > 1  # then it looks at each event
    kind = keras.callbacks.TerminateOnNaN
    return not is_fixed and any(isinstance(c, kind) for c in callbacks.callbacks)


def interest_of(callback: Any, *, phase: str) -> Interest:
    """Tells what a callback wants of the batches of a phase.

    Args:
        callback: A Keras callback, or anything with its hooks.
        phase: "train", "test" or "predict".

    >>> interest_of(keras.callbacks.EarlyStopping(), phase="train").name
    'NONE'
    >>> interest_of(keras.callbacks.ModelCheckpoint("a.keras", save_freq=9), phase="train").name
    'SAVING'
    """
    if any(name in vars(callback) for name in _HOOKS[phase]):
        return Interest.EVERY  # as a LambdaCallback that was given one
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
    is_silent = phase == "test" and getattr(callback, "_called_in_fit", False)
    # Only this one of its forms draws between the ends of epochs.
    return Interest.LOGS if callback.verbose == 1 and not is_silent else Interest.NONE


def _of_saving(callback: Any, phase: str) -> Interest:
    if callback.save_freq == "epoch":
        return Interest.NONE
    counts = ("_batches_seen_since_last_saving", "_last_batch_seen")
    is_known = callback.save_freq and all(hasattr(callback, name) for name in counts)
    return Interest.SAVING if is_known else Interest.EVERY


def _of_tensorboard(callback: Any, phase: str) -> Interest:
    by_epoch = callback.update_freq == "epoch" and not getattr(callback, "_should_trace", True)
    return Interest.NONE if by_epoch else Interest.EVERY


# Keras's own callbacks that bring batch hooks, but do not need every batch.
_KNOWN: dict[type, Callable[[Any, str], Interest]] = {
    keras.callbacks.BackupAndRestore: _of_saving,
    keras.callbacks.ModelCheckpoint: _of_saving,
    keras.callbacks.ProgbarLogger: _of_progress,
    keras.callbacks.TensorBoard: _of_tensorboard,
    keras.callbacks.TerminateOnNaN: lambda callback, phase: Interest.LOGS,
}


def _until_saving(callback: Any, done: int) -> int:
    """Returns how many batches may go by until a callback with an integer `save_freq` acts."""
    left = callback.save_freq - callback._batches_seen_since_last_saving
    if done == 0 and callback._last_batch_seen is not None:
        # It tells a new epoch by a number that is not above the last one it saw.
        left = min(left, callback._last_batch_seen + 1)
    return max(left, 1)


def _paces(model: keras.Model) -> dict[str, Pace]:
    # A pace that was learnt in one epoch serves the next ones.
    return vars(model).setdefault("_tfdist_paces", {})
