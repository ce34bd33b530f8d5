"""Which variables of a model are not the same on all workers?"""

from __future__ import annotations

from collections.abc import Callable

import keras
import tensorflow as tf

from tfdist.communication.agreement import Agreement
from tfdist.compat import tf_internals
from tfdist.step import variables
from tfdist.training.fingerprints import number_of


class Comparison:
    """Compares a model's variables over the workers, by a number of each, see fingerprints.py.

    Args:
        model: The model.
        strategy: The strategy that it was made under.
        agreement: Between the workers, who make the same calls in the same order.
    """

    def __init__(
        self, model: keras.Model, strategy: tf.distribute.Strategy, agreement: Agreement
    ) -> None:
        self._model, self._strategy, self._agreement = model, strategy, agreement
        self._entries: list[variables.Entry] = []
        self._numbers: Callable[[], tf.Tensor] | None = None

    def parted(self) -> list[variables.Entry]:
        """Returns the variables that are not the same on all workers.

        Those that each replica has a value of its own of are left out.
        """
        entries = [e for e in variables.entries_of(self._model) if not e.per_replica]
        if not entries:
            return []
        if self._numbers is None or _variables(entries) != _variables(self._entries):
            self._entries, self._numbers = entries, self._traced(entries)
        with tf_internals.default_replica_mode():
            own = self._numbers().numpy()
        rows = self._agreement.gather(*own.tolist())
        return [entry for entry, found in zip(entries, rows.T, strict=True) if len(set(found)) > 1]

    def local(self, entry: variables.Entry) -> tf.Variable:
        """Returns the variable's component on this worker's first replica."""
        return self._strategy.experimental_local_results(variables.value_of(entry.variable))[0]

    def _traced(self, entries: list[variables.Entry]) -> Callable[[], tf.Tensor]:
        components = [self.local(entry) for entry in entries]
        return tf.function(
            lambda: tf.stack([number_of(c.read_value()) for c in components]), autograph=False
        )


def _variables(entries: list[variables.Entry]) -> list[int]:
    # Those of a trace are kept with their entries, so that no other one can have their ids.
    return [id(entry.variable) for entry in entries]
