"""Do all replicas still hold the same weights?  One number per variable, compared.

A variable's number changes with every single element: 2x**2 + x is different for every integer x
modulo 2**64, and changes of two elements cancel out in the sum only by chance.
`Fingerprint` compares the replicas' numbers, `Comparison` those of the workers. Both see what
should be the same everywhere: weights, and the states that layers assign (`same_everywhere`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, tf_internals
from tfdist.sharding.sliced_state import PARTS
from tfdist.step.variables import Entry, entries_of, value_of


def same_everywhere(model: Any) -> list[Entry]:
    """Lists the variables of a run that should be the same on all replicas of all workers.

    These are the weights, and the states that layers assign while they train, such as a codebook:
    those are one device's only if all replicas assign the same. Left out are sums of which each
    replica has a part, what a plain BatchNormalization and float8 layers see of a replica's own
    rows (the first has its warning), and texts.
    """
    own = {
        id(variable)
        for layer in keras_internals.flat_layers(model)
        if _sees_own_rows(layer)
        for variable in layer.non_trainable_variables
    }
    return [e for e in entries_of(model) if _is_comparable(e) and id(e.variable) not in own]


def _sees_own_rows(layer: Any) -> bool:
    is_plain = isinstance(layer, keras.layers.BatchNormalization) and not layer.synchronized
    return is_plain or getattr(layer, "quantization_mode", None) == "float8"


def _is_comparable(entry: Entry) -> bool:
    if entry.per_replica == PARTS:  # each replica holds another part
        return False
    value, dtype = value_of(entry.variable), tf.as_dtype(entry.variable.dtype)
    is_shared = value.synchronization != tf.VariableSynchronization.ON_READ
    is_number = dtype.is_floating or dtype.is_complex or dtype.is_integer or dtype.is_bool
    return is_shared and is_number


def is_state(entry: Entry) -> bool:
    """Tells whether it is a variable of a layer that no optimizer updates."""
    return entry.per_replica == "own"


class Fingerprint:
    """Compares variables over all replicas.

    Args:
        entries: Variables that should be the same.
        strategy: The strategy of the variables.

    Attributes:
        entries: The variables.
    """

    def __init__(self, entries: Sequence[Entry], strategy: tf.distribute.Strategy) -> None:
        self.entries = list(entries)
        self._is_needed = strategy.num_replicas_in_sync > 1 and bool(self.entries)
        self._numbers = _numbers_of(self.entries, strategy)

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
        if text := difference([entry.name for entry in self.entries], numbers):
            raise RuntimeError(
                f"After step {step} the replicas no longer hold the same weights: {text}. A device "
                "or a link corrupts data, or code outside of fit has written to one replica alone. "
                "Go back to a checkpoint from before that, and replace the hardware at fault."
            )


def difference(names: Sequence[str], numbers: np.ndarray, *, who: str = "replicas") -> str:
    """Names the first variable that is not the same everywhere; "" if all are the same.

    Args:
        names: The names of the variables.
        numbers: One row per replica, one column per variable.
        who: Whose rows these are.

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
        f"{who} {groups[0]} hold one value, {others}"
    )


def number_of(value: tf.Tensor) -> tf.Tensor:
    """Returns a tensor's number, an int64 scalar, in a graph or eagerly."""
    bytes_of_all = (value.shape.num_elements() or 0) * value.dtype.size
    if not value.dtype.is_bool and value.dtype.size < 8 and bytes_of_all % 8 == 0 and bytes_of_all:
        # Several of them in one, which takes half the time.
        value = tf.bitcast(tf.reshape(value, [-1, 8 // value.dtype.size]), tf.int64)
    elif value.dtype.is_floating or value.dtype.is_complex:
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
        self._model, self.workers = model, workers
        self._entries: list[Entry] = []
        self._numbers: Callable[[], tf.Tensor] | None = None
        self._fingerprint: Fingerprint | None = None

    def fingerprint(self, entries: Sequence[Entry]) -> Fingerprint:
        """Returns what compares variables over all replicas: the same object for the same ones."""
        known = self._fingerprint
        if known is None or _variables(entries) != _variables(known.entries):
            known = self._fingerprint = Fingerprint(entries, self.workers.strategy)
        return known

    def differing(self) -> list[Entry]:
        """Returns the variables that are not the same on all workers, without states of layers."""
        entries, rows = self._gathered()
        pairs = zip(entries, rows.T, strict=True)
        return [e for e, found in pairs if not is_state(e) and len(set(found)) > 1]

    def differences(self, *, also_here: bool = True) -> tuple[str, str]:
        """Says which weight, and which state of a layer, is not the same everywhere.

        Every worker has to call it.

        Args:
            also_here: Whether to compare the replicas of this worker, too.

        Returns:
            The first weight, and the first state; "" where all are the same.
        """
        entries, rows = self._gathered()
        kinds: list[list[int]] = [[], []]
        for index, entry in enumerate(entries):
            kinds[is_state(entry)].append(index)
        firsts = np.full([1, 2], -1)
        if also_here and self.workers.share.local_replicas > 1:
            own = (self._first_here([entries[i] for i in columns]) for columns in kinds)
            firsts = self.workers.gather(*own, what="a comparison of weights")
        told = []
        for columns, found in zip(kinds, firsts.T, strict=True):
            names = [entries[i].name for i in columns]
            text = difference(names, rows[:, columns], who="workers") if columns else ""
            if not text and (found >= 0).any():
                rank = int(np.flatnonzero(found >= 0)[0])
                text = f"{names[found[rank]]!r} differs between the replicas of worker {rank}"
            told.append(text)
        return told[0], told[1]

    def _gathered(self) -> tuple[list[Entry], np.ndarray]:
        entries = same_everywhere(self._model)
        if not entries or not self.workers.has_others:
            return entries, np.zeros([1, len(entries)], np.int64)
        if self._numbers is None or _variables(entries) != _variables(self._entries):
            self._entries, self._numbers = entries, self._traced(entries)
        with tf_internals.default_replica_mode():
            own = self._numbers().numpy()
        return entries, self.workers.gather(*own.tolist(), what="a comparison of weights")

    def _first_here(self, entries: list[Entry]) -> int:
        """Returns the number of the first variable that this worker's replicas hold unlike, or -1.

        By their bytes in the host's memory: what lies there is not copied, and nothing is traced.
        """
        strategy = self.workers.strategy
        for number, entry in enumerate(entries):
            first, *others = strategy.experimental_local_results(value_of(entry.variable))
            known = _bytes_of(first) if others else b""
            if any(not np.array_equal(known, _bytes_of(other)) for other in others):
                return number
        return -1

    def local(self, entry: Entry) -> tf.Variable:
        """Returns the variable's component on this worker's first replica."""
        return self.workers.strategy.experimental_local_results(value_of(entry.variable))[0]

    def _traced(self, entries: list[Entry]) -> Callable[[], tf.Tensor]:
        components = [self.local(entry) for entry in entries]
        return tf.function(
            lambda: tf.stack([number_of(c.read_value()) for c in components]), autograph=False
        )


def _bytes_of(part: Any) -> np.ndarray:
    return np.ascontiguousarray(part.numpy()).reshape(-1).view(np.uint8)


def _variables(entries: Sequence[Entry]) -> list[int]:
    # The entries of a trace are kept, so no other variable can get the ids of theirs.
    return [id(entry.variable) for entry in entries]
