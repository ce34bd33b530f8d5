"""Have replicas parted while nobody looked?  A comparison that costs half a percent, always on.

Weights that differ between replicas or workers make a run whose result is nobody's, and nothing
shows it. So they are compared before the first step, each five seconds, but not more often than
after two hundred times the time that it takes, and at the end. `fingerprint_every` compares after a
number of steps.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from tfdist.communication.share import is_tpu
from tfdist.compat.notes import note_of, set_note
from tfdist.training.checks.fingerprints import Comparison

_LOG = logging.getLogger("tfdist")
_EVERY_SECS = 5.0
_SHARE = 200  # of the time, one part is spent on comparing


def refuse_other_weights(model: Any, comparison: Comparison) -> None:
    """Compares weights and states before a call goes on; every worker has to call it.

    Raises:
        ValueError: The workers hold different ones; the message names the first.
    """
    if not comparison.workers.has_others or note_of(model, "is_recorded"):
        return
    weight, state = comparison.differences(also_here=False)
    if found := weight or (state if not note_of(model, "has_parted") else ""):
        raise ValueError(
            f"The workers begin with different weights: {found}. Set or load the same on every "
            "worker, not on the chief alone; weights that a model is made with are the chief's "
            "anyway."
        )


class Divergence:
    """Compares the replicas of one call of `fit` while it runs.

    Args:
        model: The model, built.
        comparison: Compares its variables over the workers.
        check: As in `fit`: what to do about states of layers that differ.
        leaves_states: Whether they may differ, since replicas train on their own for some steps.
    """

    def __init__(
        self,
        model: Any,
        comparison: Comparison,
        *,
        check: str | bool,
        leaves_states: bool = False,
    ) -> None:
        self._model, self._comparison, self._check = model, comparison, check
        self._leaves_states = leaves_states
        workers = comparison.workers
        can_part = workers.share.num_replicas > 1 and not is_tpu(workers.strategy)
        self._is_needed = can_part and not note_of(model, "is_recorded")
        self._due_at: float | None = None

    def is_due(self) -> bool:
        """Whether this worker thinks that it is time; the chief's word counts."""
        now = time.monotonic()
        if self._due_at is None:
            self._due_at = now + _EVERY_SECS  # the first call of the loop has traced it
        return self._is_needed and now >= self._due_at

    def compare(self, step: int) -> None:
        """Compares all replicas. Every worker has to call it.

        Args:
            step: Steps of the run so far, for the message.

        Raises:
            RuntimeError: Something differs, and the message names it. States of layers raise where
                `check` is "raise"; else they are warned of once.
        """
        if not self._is_needed:
            return
        began = time.monotonic()
        weight, state = self._comparison.differences()
        ended = time.monotonic()
        self._due_at = ended + max(_EVERY_SECS, _SHARE * (ended - began))
        if state and self._leaves_states:
            set_note(self._model, "has_parted", True)
            state = ""
        if weight or (state and self._check == "raise"):
            raise RuntimeError(_sentence(step, weight or state))
        if state and not note_of(self._model, "has_parted"):
            set_note(self._model, "has_parted", True)
            _LOG.warning("%s", _sentence(step, state))


def _sentence(step: int, found: str) -> str:
    return (
        f"After step {step} the replicas no longer hold the same weights: {found}. If a layer "
        "assigns it from its rows, let it use the rows of all replicas (tfdist.all_rows); else "
        "something has written to one replica alone, or a device or a link corrupts data: go back "
        "to a checkpoint from before that."
    )
