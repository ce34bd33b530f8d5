"""Which variables of a model are not the same on all workers?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdist import keras_compat, state
from tfdist.agreement import Agreement


class Comparison:
    """Compares a model's variables over the workers, by a checksum each.

    Args:
        model: The model.
        strategy: The strategy that it was made under.
        agreement: Between the workers, who make the same calls in the same order.
    """

    def __init__(
        self, model: keras.Model, strategy: tf.distribute.Strategy, agreement: Agreement
    ) -> None:
        self._model, self._strategy, self._agreement = model, strategy, agreement
        self._entries: list[state.Entry] = []
        self._checksums: Callable[[], tf.Tensor] | None = None

    def parted(self) -> list[state.Entry]:
        """Returns the variables that are not the same on all workers.

        Those that each replica has a value of its own of are left out.
        """
        entries = [e for e in state.entries_of(self._model) if not e.per_replica]
        if not entries:
            return []
        if self._checksums is None or _variables(entries) != _variables(self._entries):
            self._entries, self._checksums = entries, self._traced(entries)
        with keras_compat.default_replica_mode():
            own = self._checksums().numpy()
        rows = self._agreement.gather(*own.tolist())
        return [entry for entry, sums in zip(entries, rows.T, strict=True) if len(set(sums)) > 1]

    def local(self, entry: state.Entry) -> tf.Variable:
        """Returns the variable's component on this worker's first replica."""
        variable = getattr(entry.variable, "value", entry.variable)
        variable = entry.variable if callable(variable) else variable
        return self._strategy.experimental_local_results(variable)[0]

    def _traced(self, entries: list[state.Entry]) -> Callable[[], tf.Tensor]:
        components = [self.local(entry) for entry in entries]
        return tf.function(
            lambda: tf.stack([_checksum(c.read_value()) for c in components]), autograph=False
        )


def _variables(entries: list[state.Entry]) -> list[int]:
    # None is gone as long as its entry is kept, so that no other one can have its id.
    return [id(entry.variable) for entry in entries]


def _checksum(value: Any) -> tf.Tensor:
    if value.dtype.is_floating:
        bits = {8: tf.int64, 4: tf.int32, 2: tf.int16, 1: tf.int8}[value.dtype.size]
        value = tf.bitcast(value, bits)
    return tf.reduce_sum(tf.cast(value, tf.int64))
