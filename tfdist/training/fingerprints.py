"""Do all replicas still hold the same weights?  One number of each variable, compared.

A variable's number changes with any one of its elements: 2x**2 + x is another one for every integer
x modulo 2**64, and what two changed elements add to the sum does not cancel out but by chance.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.compat import tf_internals
from tfdist.step import variables as variables_lib
from tfdist.step.variables import Entry


class Fingerprint:
    """Compares the variables that all replicas share; those of which they hold parts are left out.

    Args:
        entries: The run's variables.
        strategy: The strategy of the variables.
    """

    def __init__(self, entries: Sequence[Entry], strategy: tf.distribute.Strategy) -> None:
        self._shared = [entry for entry in entries if not entry.per_replica]
        self._is_needed = strategy.num_replicas_in_sync > 1 and bool(self._shared)
        self._numbers = _numbers_of(self._shared, strategy)

    def compare(self, *, step: int) -> None:
        """Compares them. Every worker has to call it.

        Args:
            step: Steps of the run that are done; for the text.

        Raises:
            RuntimeError: A variable differs; the text names the first one, and the replicas.
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
    """Names the first variable that is not the same everywhere; "" where all are.

    Args:
        names: Of the variables.
        numbers: One row a replica, one column a variable.

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
    """Returns a function that gives one row a replica, one number a variable."""
    variables = [variables_lib.value_of(entry.variable) for entry in entries]

    def on_replica() -> tf.Tensor:
        row = tf.stack([number_of(variable.read_value()) for variable in variables])
        context = tf.distribute.get_replica_context()
        return context.all_gather(row[tf.newaxis], axis=0)

    @tf.function(autograph=False)
    def gathered() -> tf.Tensor:
        rows = strategy.run(tf.autograph.experimental.do_not_convert(on_replica))
        return strategy.experimental_local_results(rows)[0]

    return gathered
