"""Which sums are taken once per several steps, and where may such a round end?

Two things travel once per round instead of once per step: gradients that an optimizer accumulates
(accumulation.py), and weights that each replica has trained by itself (local_steps.py). Between two
calls of the traced loop no round is open, so whoever looks there (a checkpoint, a callback, a
validation) finds the same state as without rounds: a call that stops in the middle of a round ends
the round as well. Calls therefore end with a round unless something else fixes their length
(loop/pacing.py).
"""

from __future__ import annotations

from typing import Any, Protocol

from tfdist.step.replicas import Batch


class Rounds(Protocol):
    """Rounds of steps; replicas sum in the last step of each round.

    Attributes:
        size: Steps of a round.
        is_fixed: Whether ending a round early changes the result by more than rounding. If so, only
            the end of an epoch ends one early.
    """

    size: int
    is_fixed: bool

    def begin(self) -> None:
        """Runs in a graph before the first step of a call of the loop."""

    def step(self, batch: Batch) -> dict[str, Any]:
        """Trains the model on one global batch; returns what `update.train_step` does."""

    def end(self) -> None:
        """Runs in a graph after the last step of a call."""

    def begun(self) -> int:
        """Returns the steps of the current round that are done, between two calls."""
