"""What has a model spent, and what does its next training spend?

Trainings of one model compose: what was spent before is noted on the model, and is part of every
checkpoint. Steps of a training count as they get their noise.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfdist.compat.notes import note_of, set_note
from tfdist.privacy import accountant
from tfdist.privacy.accountant import Mechanism
from tfdist.privacy.draws import Draws

Spent = tuple[tuple[Mechanism, int], ...]


class Ledger:
    """What one training spends.

    Args:
        mechanism: What a step of it gives away.
        delta: Of the promise.
        before: What was spent before it.
        draws: Counts the steps of this process.
    """

    def __init__(self, mechanism: Mechanism, *, delta: float, before: Spent, draws: Draws) -> None:
        self.mechanism, self.delta, self.before = mechanism, delta, before
        self._draws, self._resumed = draws, 0

    def begin(self, step: int) -> None:
        """Notes how many steps an earlier process has done."""
        self._resumed = step

    @property
    def spent(self) -> Spent:
        """All that the model has spent."""
        steps = self._resumed + self._draws.steps
        alike = dict(self.before)
        if steps:
            alike[self.mechanism] = alike.get(self.mechanism, 0) + steps
        return tuple(alike.items())

    def logs(self) -> dict[str, float]:
        """Returns the epsilon that was spent so far, for the logs of an epoch."""
        return {"epsilon": accountant.epsilon(self.spent, delta=self.delta)}


def spent_by(model: keras.Model) -> Spent:
    """Returns what a model has spent in this process, and before in the runs that it resumed."""
    spent: Spent = note_of(model, "spent", ())
    return spent


def note_spent(model: keras.Model, spent: Spent) -> None:
    """Notes what a model has spent."""
    set_note(model, "spent", spent)


def as_plain(spent: Sequence[tuple[Mechanism, int]]) -> list[dict[str, Any]]:
    """Returns what was spent in plain values, for a checkpoint."""
    return [{**dataclasses.asdict(mechanism), "steps": steps} for mechanism, steps in spent]


def from_plain(values: Sequence[Mapping[str, Any]]) -> Spent:
    """Returns what `as_plain` was given."""
    found = []
    for value in values:
        own = dict(value)
        steps = int(own.pop("steps"))
        found.append((Mechanism(**own), steps))
    return tuple(found)
