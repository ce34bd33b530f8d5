"""Do all replicas still hold the same weights?  One number per variable, compared.

A variable's number changes with every single element: 2x**2 + x is different for every integer x
modulo 2**64, and changes of two elements cancel out in the sum only by chance.
`Fingerprint` compares the replicas' numbers, `Comparison` those of the workers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.workers import Workers
from tfdist.compat import tf_internals
from tfdist.step.variables import Entry, entries_of, value_of


class Fingerprint:
    """Compares the variables that all replicas share, not those that each holds a part of.

    Args:
        entries: The run's variables.
        strategy: The strategy of the variables.
    """

    def __init__(self, entries: Sequence[Entry], strategy: tf.distribute.Strategy) -> None:
        self._shared = [entry for entry in entries if not entry.per_replica]
        self._is_needed = strategy.num_replicas_in_sync > 1 and bool(self._shared)
        self._numbers = _numbers_of(self._shared, strategy)

    def compare(self, *, step: int) -> None:
        """Compares the variables. Every worker has to call it.

        Args:
            step: Steps of the run so far, for the message.

        Raises:
            RuntimeError: A variable differs; the message names the first one, and the replicas.
        """
        if not self._is_needed:
            return
        with tf_internals.default_replica_mode():
            numbers = self._numbers().numpy()
        if text := difference([entry.name for entry in self._shared], numbers):
            raise RuntimeError(
                f"After step {step} the replicas no longer hold the same weights: {text}. A device "
                "or a link corrupts data, or code outside of fit has written to one replica alone. "
                "Go back to a checkpoint from before that, and replace the hardware at fault."
            )


def difference(names: Sequence[str], numbers: np.ndarray) -> str:
    """Names the first variable that is not the same everywhere; "" if all are the same.

    Args:
        names: The names of the variables.
        numbers: One row per replica, one column per variable.

    >>> difference(["kernel", "bias"], np.array([[1, 2], [1, 5], [1, 2]]))
    "'bias' differs (1 of 2 variables does): replicas [0, 2] hold one value, [1] another"
    """
    differing = np.flatnonzero((numbers != numbers[0]).any(axis=0))
    if not differing.size:
        return ""
    column = numbers[:, differing[0]]
    groups = [np.flatnonzero(column == value).tolist() for value in dict.fromkeys(column.tolist())]
    groups.sort(key=len, reverse=True)
    others = ", ".join(f"{group} another" for group in groups[1:])
    verb = "do" if differing.size > 1 else "does"
    return (
        f"{names[differing[0]]!r} differs ({differing.size} of {len(names)} variables {verb}): "
        f"replicas {groups[0]} hold one value, {others}"
    )


def number_of(value: tf.Tensor) -> tf.Tensor:
    """Returns a tensor's number, an int64 scalar, in a graph or eagerly."""
    if value.dtype.is_floating or value.dtype.is_complex:
        kind = {1: tf.uint8, 2: tf.int16, 4: tf.int32}.get(value.dtype.size, tf.int64)
        value = tf.bitcast(value, kind)  # a complex128 becomes two
    integers = tf.cast(value, tf.int64)
    return tf.reduce_sum(integers * (2 * integers + 1))


def _numbers_of(entries: Sequence[Entry], strategy: tf.distribute.Strategy) -> Any:
    """Returns a function that returns one row per replica, with one number per variable."""
    variables = [value_of(entry.variable) for entry in entries]

    def row(context: Any) -> tf.Tensor:
        return tf.stack([number_of(variable.read_value()) for variable in variables])

    return tf.function(lambda: collectives.gathered(strategy, row), autograph=False)


class Comparison:
    """Compares a model's variables over the workers, by one number per variable.

    Args:
        model: The model.
        workers: The workers of the strategy that it was made under.
    """

    def __init__(self, model: keras.Model, workers: Workers) -> None:
        self._model, self._workers = model, workers
        self._entries: list[Entry] = []
        self._numbers: Callable[[], tf.Tensor] | None = None

    def differing(self) -> list[Entry]:
        """Returns the variables that are not the same on all workers.

        Variables of which each replica has its own value are left out.
        """
        entries = [e for e in entries_of(self._model) if not e.per_replica]
        if not entries:
            return []
        if self._numbers is None or _variables(entries) != _variables(self._entries):
            self._entries, self._numbers = entries, self._traced(entries)
        with tf_internals.default_replica_mode():
            own = self._numbers().numpy()
        rows = self._workers.gather(*own.tolist())
        return [entry for entry, found in zip(entries, rows.T, strict=True) if len(set(found)) > 1]

    def local(self, entry: Entry) -> tf.Variable:
        """Returns the variable's component on this worker's first replica."""
        return self._workers.strategy.experimental_local_results(value_of(entry.variable))[0]

    def _traced(self, entries: list[Entry]) -> Callable[[], tf.Tensor]:
        components = [self.local(entry) for entry in entries]
        return tf.function(
            lambda: tf.stack([number_of(c.read_value()) for c in components]), autograph=False
        )


def _variables(entries: list[Entry]) -> list[int]:
    # The entries of a trace are kept, so no other variable can get the ids of theirs.
    return [id(entry.variable) for entry in entries]
