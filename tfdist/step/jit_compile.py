"""How does XLA compile a replica's part of a step that needs sums over the replicas?

XLA allows no collectives, but all that a loss needs from the other replicas are counts: the valid
timesteps of a mask, the sum of the sample weights. These follow from the batch alone, not from one
another. So the function is first traced to see what it would sum. The few operations that lead to
these counts run and are summed outside, and the compiled function gets the sums as arguments.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import tensorflow as tf

from tfdist.communication.collectives import Collectives
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position


def compiled(replica_fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Compiles a function of one replica's data.

    Args:
        replica_fn: Takes a structure of tensors, in replica context.

    Returns:
        The same function, compiled. It raises a ValueError if the function needs more from the
        other replicas than sums of values that follow from its data.
    """

    @tf.function(autograph=False, jit_compile=True)
    def run(data: Any, sums: list[tf.Tensor]) -> Any:
        position = position_lib.current()
        if position is None or position.has_all:
            return replica_fn(data)
        left = iter(sums)
        with position_lib.at(_asking(position, lambda value: next(left))):
            return replica_fn(data)

    def with_sums(data: Any) -> Any:
        position = position_lib.current()
        if position is None or position.has_all:
            return run(data, [])
        summands = _summands(replica_fn, data, position)
        return run(data, [position.collectives.sum(v) for v in summands])

    return with_sums


def _summands(replica_fn: Callable[[Any], Any], data: Any, position: Position) -> list[tf.Tensor]:
    """Returns the values that a function would sum over the replicas, in order, and no others."""
    found: list[tf.Tensor] = []

    def note(value: Any) -> Any:
        found.append(tf.convert_to_tensor(value))
        return value

    leaves = tf.nest.flatten(data, expand_composites=True)
    flat = [leaf for leaf in leaves if leaf is not None]  # no targets, or no weights

    def trace(*given: tf.Tensor) -> list[tf.Tensor]:
        left = iter(given)
        values = [None if leaf is None else next(left) for leaf in leaves]
        with position_lib.at(_asking(position, note)):
            replica_fn(tf.nest.pack_sequence_as(data, values, expand_composites=True))
        return found

    specs = [tf.TensorSpec(tensor.shape, tensor.dtype) for tensor in flat]
    whole = tf.compat.v1.wrap_function(trace, specs)
    if not found:
        return []
    # Pruning leaves out everything else, such as assignments to variables.
    return _listed(whole.prune(whole.inputs[: len(flat)], whole.outputs)(*flat))


def _listed(values: Any) -> list[tf.Tensor]:
    return list(values) if isinstance(values, Sequence) else [values]


def _asking(position: Position, answer: Callable[[Any], Any]) -> Position:
    """Returns the position with `answer` as its sum, and with every other collective refused."""
    known: Collectives = position.collectives
    collectives = dataclasses.replace(known, sum=answer, linked_sum=_refuse, gather=_refuse)
    return dataclasses.replace(position, collectives=collectives, is_compiled=True)


def _refuse(*_: Any) -> NoReturn:
    raise ValueError(
        "jit_compile=True cannot compile a step that needs the rows of other replicas (a loss or "
        "metric that gives one number for a batch, a normalization over all replicas), since XLA "
        "allows no collective. Compile with jit_compile=False, or give a value for each row."
    )
