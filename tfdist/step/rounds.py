"""Which sums are taken once in several steps, and what is such a round of steps?

Two things travel once a round instead of once a step: gradients that an optimizer accumulates
(accumulation.py), and weights that each replica has trained by itself (local_steps.py). Between two
calls of the traced loop no round is open, so that whoever looks there (a checkpoint, a callback, a
validation) finds the same state as without rounds: a call that ends in the midst of a round ends
the round as well. Calls therefore end with a round, where nobody asked for another end
(loop/pacing.py).
"""

from __future__ import annotations

from typing import Any, Protocol

from tfdist.step.replicas import Batch


class Rounds(Protocol):
    """Steps of which the last one of each round is where replicas sum.

    Attributes:
        size: Steps of a round.
        is_fixed: Whether a round that ends early trains to something else, and not only to other
            last bits. Then nothing but the end of an epoch ends it early.
    """

    size: int
    is_fixed: bool

    def begin(self) -> None:
        """Runs in a graph before the first step of a call of the loop."""

    def step(self, batch: Batch) -> dict[str, Any]:
        """Takes the model through one global batch; gives what `update.train_step` does."""

    def end(self) -> None:
        """Runs in a graph after the last step of a call."""

    def begun(self) -> int:
        """Gives the steps of the present round that are done, between two calls."""
