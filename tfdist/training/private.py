"""What is set up around a training that is private, and what is told of it?"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import keras

from tfdist.checkpoint.run import Run
from tfdist.communication.workers import Workers
from tfdist.compat.notes import note_of, set_note
from tfdist.data.source import Source
from tfdist.privacy import accountant, allowed, mixing, sampling
from tfdist.privacy import ledger as ledger_lib
from tfdist.privacy.accountant import Mechanism
from tfdist.privacy.dpsgd import DPSGD
from tfdist.privacy.draws import Draws
from tfdist.privacy.ledger import Ledger
from tfdist.privacy.update import Private

_LOG = logging.getLogger("tfdist")


class PrivateRun:
    """One call of `fit` that trains privately; a context that keeps the secret.

    Args:
        model: The model.
        workers: Of its strategy.
        run: Knows what an earlier process has spent.
        privacy: What was asked for.
        epochs: How many are trained.
        is_told: Whether a noise multiplier that was looked for is shown by the chief.
        callbacks: As in `fit`.
    """

    def __init__(
        self,
        model: keras.Model,
        workers: Workers,
        run: Run,
        privacy: DPSGD,
        *,
        epochs: int,
        is_told: bool,
        callbacks: Any,
    ) -> None:
        self._model, self._workers, self._run, self._privacy = model, workers, run, privacy
        self._epochs, self._steps = max(epochs, 1), 0
        self._is_told, self._callbacks = is_told and workers.is_chief, callbacks
        if note_of(model, "draws") is None:  # a traced step keeps it
            set_note(model, "draws", Draws())
        self._draws: Draws = note_of(model, "draws")
        self.ledger: Ledger | None = None

    @property
    def step(self) -> Private:
        """What a step computes."""
        privacy = self._privacy
        return Private(
            privacy.l2_norm_clip, privacy.expected_batch_size, self._draws,
            privacy.physical_batch_size,
        )

    def source(
        self, x: Any, y: Any, *, sample_weight: Any, class_weight: Any, steps: int | None
    ) -> Source:
        """Makes the source of the data, whose size decides what the steps give away.

        Args:
            x: As in `fit`.
            y: As in `fit`.
            sample_weight: As in `fit`.
            class_weight: As in `fit`.
            steps: Of an epoch; None for as many as show each example once in the mean.
        """
        self._steps = steps or 0
        self._rows = sampling.rows_of(x, y, sample_weight, class_weight)
        return sampling.source_of(
            self._rows, share=self._workers.share, draws=self._draws,
            mechanism_of=self._mechanism_of, steps=steps,
            expected=self._privacy.expected_batch_size,
        )

    def refuse_model(self) -> None:
        """Raises a ValueError where the model, which is built, cannot be trained privately."""
        allowed.refuse_layers(self._model)
        mixing.refuse(self._model, self._workers.strategy, self._rows.some(mixing.ROWS))

    def _mechanism_of(self, population: int) -> Mechanism:
        accountant.library()  # before the first step, not at the end of the first epoch
        privacy, noted = self._privacy, self._run.noted("privacy")
        privacy.refuse_data(population)
        before = ledger_lib.spent_by(self._model)
        if noted is not None:
            before = ledger_lib.from_plain(noted["before"])
        steps = self._steps or -(-population // privacy.expected_batch_size)
        mechanism = privacy.mechanism(population, steps=self._epochs * steps, before=before)
        self.ledger = Ledger(mechanism, delta=privacy.delta, before=before, draws=self._draws)
        self._run.note(
            privacy={
                "l2_norm_clip": privacy.l2_norm_clip, "delta": privacy.delta,
                "expected_batch_size": privacy.expected_batch_size,
                "step": ledger_lib.as_plain([(mechanism, 1)]),
                "before": ledger_lib.as_plain(before),
            }
        )
        if self._is_told and privacy.target_epsilon is not None:
            print(
                f"privacy: noise_multiplier={mechanism.noise_multiplier:.4f} keeps epsilon "
                f"{privacy.target_epsilon} at delta {privacy.delta} over {self._epochs * steps} "
                "steps", flush=True,
            )
        return mechanism

    def _warn(self) -> None:
        """Says what of a training has no noise, on the chief, and what callbacks make of it."""
        if not self._workers.is_chief or note_of(self._model, "told_of_privacy"):
            return
        set_note(self._model, "told_of_privacy", True)
        deciding = [
            type(one).__name__ for one in _flat(self._callbacks)
            if not str(getattr(one, "monitor", "val_")).startswith("val_")
        ]  # fmt: skip
        _LOG.warning(
            "The weights are trained privately; the loss and metrics of the training data, and "
            "what is decided by them%s, are not. Keep them to those who may see the data.",
            f" ({', '.join(deciding)})" if deciding else "",
        )

    def __enter__(self) -> PrivateRun:
        self._warn()
        noise = self.ledger.mechanism.noise_multiplier if self.ledger else 0.0
        self._draws.begin(
            self._workers, seed=self._privacy.seed, scale=noise * self._privacy.l2_norm_clip
        )
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.ledger is not None:
            ledger_lib.note_spent(self._model, self.ledger.spent)
        self._draws.end()


def _flat(callbacks: Any) -> Sequence[Any]:
    if callbacks is None:
        return ()
    return getattr(callbacks, "callbacks", None) or keras.tree.flatten(callbacks)
