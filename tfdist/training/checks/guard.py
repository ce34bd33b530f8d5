"""What is checked while training runs?  That losses are finite, and that replicas still agree."""

from __future__ import annotations

import logging

import keras
import numpy as np
import tensorflow as tf

from tfdist.checkpoint.interval import parse_every
from tfdist.compat import keras_internals
from tfdist.step import variables
from tfdist.step.finite import FiniteWatch
from tfdist.training.checks.divergence import Divergence
from tfdist.training.checks.fingerprints import Comparison, Fingerprint, is_state, same_everywhere
from tfdist.training.options import Options

_LOG = logging.getLogger("tfdist")


class Guard:
    """Checks one call of `fit` while it runs.

    Args:
        model: The model, built.
        comparison: Compares the model's variables over the workers.
        options: Of `fit`: what is compared, and what happens if a gradient is not finite.
        watch: Sees the gradients, where the policy needs it; else None.
    """

    def __init__(
        self,
        model: keras.Model,
        comparison: Comparison,
        options: Options,
        *,
        watch: FiniteWatch | None,
    ) -> None:
        self._model, self._comparison, self._watch = model, comparison, watch
        self._strategy = comparison.workers.strategy
        self.options = options
        #: Compares the replicas from time to time.
        self.divergence = Divergence(
            model, comparison, check=options.check, leaves_states=bool(options.local_steps)
        )
        self.on_nan, self._every = options.on_nan, parse_every(options.fingerprint_every)
        self._fingerprint: Fingerprint | None = None
        self._finite_at, self._has_warned = 0, False

    def begin(self, step: int) -> None:
        """Records the step that the run begins at."""
        self._finite_at = step
        self._every.restart(step, now=0.0)
        if self._watch is not None:
            self._watch.take()  # of an earlier run that ended with an error

    def steps_left(self, step: int) -> int | None:
        """Returns how many steps may run until the next comparison is due; None for any number."""
        return self._every.steps_left(step)

    def look(self, step: int, *, compares: bool) -> None:
        """Checks the state after the steps up to this one. Every worker has to call it.

        Args:
            step: Of the run.
            compares: Whether the chief finds that it is time to compare the replicas.

        Raises:
            RuntimeError: A gradient is not finite, where `on_nan` is "raise"; or the replicas no
                longer hold the same weights.
        """
        if self.on_nan == "warn":
            self._warn(step)
        elif self._watch is not None and (found := self._watch.take()):
            self._tell(step, *found)
        if self._every.is_due(step, now=0.0):
            if self._fingerprint is None:
                entries = same_everywhere(self._model)
                if self.options.local_steps:  # states follow the weights of a replica's own steps
                    entries = [entry for entry in entries if not is_state(entry)]
                self._fingerprint = self._comparison.fingerprint(entries)
            self._fingerprint.compare(step=step)
            self._every.restart(step, now=0.0)
        if compares:
            self.divergence.compare(step)

    def _warn(self, step: int) -> None:
        loss = _own_loss(self._model, self._strategy)
        if loss is None or np.isfinite(loss):
            self._finite_at = step
        elif not self._has_warned:
            self._has_warned = True
            _LOG.warning(
                "The loss is %s at step %d of the run, and was finite at step %d; %s. Training "
                "goes on, as in Keras. fit(..., on_nan='raise') ends it at the very step, and "
                "on_nan='skip' leaves such steps out.",
                loss, step, self._finite_at, _first_bad(self._model, self._strategy),
            )

    def _tell(self, step: int, count: int, ago: int, index: int) -> None:
        path = self._model.trainable_variables[index].path
        if self.on_nan == "raise":
            raise RuntimeError(
                f"At step {step - ago} of the run the gradient of {path!r} is not finite. The "
                "weights are those of the step before. Look at that batch and the learning rate, "
                "or use on_nan='skip' to leave such steps out."
            )
        _LOG.warning(
            "%d of the steps up to step %d were left out, since gradients were not finite; the "
            "first was that of %r, at step %d.", count, step, path, step - ago,
        )


def _own_loss(model: keras.Model, strategy: tf.distribute.Strategy) -> float | None:
    """Returns the sum of losses that this worker's first replica has counted in the epoch."""
    total = getattr(keras_internals.loss_tracker(model), "total", None)
    if total is None:
        return None
    return float(strategy.experimental_local_results(variables.value_of(total))[0].numpy())


def _first_bad(model: keras.Model, strategy: tf.distribute.Strategy) -> str:
    """Names the first variable that holds an infinity or a NaN."""
    for entry in variables.entries_of(model):
        if entry.name.startswith("metrics/") or not tf.as_dtype(entry.variable.dtype).is_floating:
            continue
        own = variables.components(strategy, entry.variable)
        if not all(bool(tf.reduce_all(tf.math.is_finite(part))) for part in own):
            return f"{entry.name!r} is the first variable that is not finite"
    return "all variables are finite"
