"""How many steps does the next call of the loop run?

A `steps_per_execution` given to `compile` is obeyed. If it was left at 1 and no callback looks at
single batches, many steps run per call, and nobody can tell the difference: as many as fit into a
fifth of a second, or into half a second with several workers, who need some milliseconds to agree
on what comes next. A callback that saves every n batches bounds the number of steps, and where
training goes in rounds a call ends with a round.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.compat.notes import note_of, set_note
from tfdist.loop.listeners import Interest, interest_of
from tfdist.step.rounds import Rounds

TARGET_SECS = 0.2
SHARED_TARGET_SECS = 0.5


@dataclasses.dataclass
class Pace:
    """Chooses how many steps to run at a time: about `target_secs` worth of them.

    Attributes:
        target_secs: How long one call of the loop should take, so that the progress bar,
            checkpoints and signals stay timely.
        most: Upper bound, in steps.
        steps: The current choice.
    """

    target_secs: float = TARGET_SECS
    most: int = 10_000
    steps: int = 1
    _calls: int = 0

    def learn(self, steps: int, secs: float) -> None:
        """Learns that `steps` steps took `secs` seconds."""
        self._calls += 1
        if self._calls == 1 or steps < 1:
            self.steps = 8  # the first call traced: its time says nothing
            return
        # At most eightfold at once: the first steps after a trace are slow.
        wanted = steps * self.target_secs / max(secs, 1e-6)
        self.steps = int(min(max(wanted, 1), 8 * self.steps, self.most))


class Stopwatch:
    """Times a `with` block by a monotonic clock."""

    secs = 0.0

    def __enter__(self) -> Stopwatch:
        self._start = time.perf_counter()
        return self

    def __exit__(self, *_: object) -> None:
        self.secs = time.perf_counter() - self._start


def end_near(steps: int, *, begun: int, size: int) -> int:
    """Returns how many steps end a round, about as many as `steps`.

    Args:
        steps: The desired number of steps, 1 or more.
        begun: Steps of the current round that are done; whole rounds may be counted too.
        size: Steps of a round.

    >>> [end_near(steps, begun=2, size=3) for steps in (1, 3, 8)]
    [1, 1, 7]
    """
    begun %= size
    return max(1, (begun + steps) // size) * size - begun


def end_from(steps: int, *, begun: int, size: int) -> int:
    """Returns the least number of steps, `steps` or more, that ends a round; see `end_near`.

    >>> [end_from(steps, begun=2, size=3) for steps in (1, 3, 8)]
    [1, 4, 10]
    """
    return -(-(begun + steps) // size) * size - begun


@dataclasses.dataclass
class Plan:
    """How many steps the next call of the loop runs.

    Attributes:
        steps: Steps of the next call.
        event_steps: Steps per event, if `compile` fixed them; else None.
        is_watched: Whether a callback reads the logs of a batch event.
        pace: Chooses `steps` if they are not fixed.
        limit: Takes the number of steps done in the epoch; returns how many may run until the next
            event, or None for any number.
        rounds: The rounds that training goes in, or None.
        begun: Steps of a round that were done when the epoch began.
        bounds: Each returns how many steps may run until something is due between two calls, or
            None for any number. If events are fixed, it is done at the next event.
    """

    steps: int
    event_steps: int | None
    is_watched: bool
    pace: Pace | None
    limit: Callable[[int], int | None] = lambda done: None
    rounds: Rounds | None = None
    begun: int = 0
    bounds: Sequence[Callable[[], int | None]] = ()

    def agreed(self, workers: Workers) -> Plan:
        """Returns the one plan that all workers follow, whichever worker's callbacks ask for it.

        The smallest number of steps wins, and a fixed number over one that is not. Reading the logs
        is a collective, so all workers read them or none does.
        """
        rows = workers.gather(self.steps, self.event_steps or 0, int(self.is_watched))
        fixed = min((int(wish) for wish in rows[:, 1] if wish), default=None)
        if self.pace and workers.has_others:
            self.pace.target_secs = SHARED_TARGET_SECS
        return dataclasses.replace(
            self, steps=fixed or int(rows[:, 0].min()), event_steps=fixed,
            is_watched=bool(rows[:, 2].any()), pace=None if fixed else self.pace,
        )

    def after(self, ran: int, secs: float, *, done: int) -> int:
        """Returns the number of steps for the next call.

        Args:
            ran: Steps of the call that has just ended.
            secs: Its time in seconds.
            done: Steps of the epoch so far.
        """
        if self.pace is None:
            return self.steps
        self.pace.learn(ran, secs)
        return self.paced(done)

    def paced(self, done: int) -> int:
        """Returns how many steps the pace allows the next call, after `done` steps of the epoch."""
        steps = self.pace.steps if self.pace else self.steps
        if self.rounds is not None:
            steps = end_near(steps, begun=self.begun + done, size=self.rounds.size)
        return min(steps, self.limit(done) or steps)

    def next_steps(self, done: int, *, left: int | None) -> int:
        """Returns how many steps the next call runs.

        Args:
            done: Steps of the epoch so far.
            left: Steps that are left of it; None if unknown.
        """
        steps = self.steps
        if not self.event_steps:
            steps = min([steps, *(n for bound in self.bounds if (n := bound()) is not None)])
        if self.rounds is not None and self.rounds.is_fixed:  # a round may not end early
            steps = end_from(steps, begun=self.begun + done, size=self.rounds.size)
        return steps if left is None else min(steps, left)


def batches_between_events(
    model: keras.Model,
    callbacks: Any,
    *,
    phase: str,
    rounds: Rounds | None = None,
    bounds: Sequence[Callable[[], int | None]] = (),
) -> Plan:
    """Decides how many steps may run at a time in an epoch.

    Args:
        model: The compiled model.
        callbacks: The `CallbackList` of the run.
        phase: "train", "test" or "predict".
        rounds: The rounds that training goes in, or None.
        bounds: As in `Plan`.

    Returns:
        The plan: fixed if `steps_per_execution` was given or a callback listens to batches.
    """
    interests = {id(c): interest_of(c, phase=phase) for c in callbacks.callbacks}
    is_watched = set(interests.values()) != {Interest.NONE} and bool(interests)
    fixed = model.steps_per_execution if model.compiled else 1
    is_eager = model.compiled and model.run_eagerly
    begun = rounds.begun() if rounds else 0
    if fixed > 1 or is_eager or Interest.EVERY in interests.values():
        if rounds and rounds.is_fixed:  # as if steps_per_execution were whole rounds
            fixed = end_from(fixed, begun=0, size=rounds.size)
        return Plan(fixed, fixed, is_watched, None, rounds=rounds, begun=begun, bounds=bounds)
    saving = [c for c in callbacks.callbacks if interests[id(c)] is Interest.SAVING]

    def limit(done: int) -> int | None:
        return min((_until_saving(callback, done) for callback in saving), default=None)

    pace = _paces(model).setdefault(phase, Pace())
    plan = Plan(pace.steps, None, is_watched, pace, limit, rounds, begun, bounds)
    return dataclasses.replace(plan, steps=plan.paced(0))


def stops_at_nan_of(model: keras.Model, callbacks: Any) -> bool:
    """Tells whether a callback wants training to end at the first step with a bad loss."""
    is_fixed = model.compiled and model.steps_per_execution > 1  # then it looks at each event
    kind = keras.callbacks.TerminateOnNaN
    return not is_fixed and any(isinstance(c, kind) for c in callbacks.callbacks)


def _until_saving(callback: Any, done: int) -> int:
    """Returns how many batches may run until a callback with an integer `save_freq` acts."""
    seen, last = keras_internals.batches_of_saving(callback) or (0, None)
    left = int(callback.save_freq) - seen
    if done == 0 and last is not None:
        # It recognizes a new epoch by a batch number that is not above the last one.
        left = min(left, last + 1)
    return max(left, 1)


def _paces(model: keras.Model) -> dict[str, Pace]:
    # A pace that was learnt in one epoch is used in the next ones.
    paces = note_of(model, "paces")
    if paces is None:
        paces = {}
        set_note(model, "paces", paces)
    return paces
