"""How does a replica's function mean the global batch while it is traced?

The replacements of the other files in this folder are put in place of Keras's own functions for
losses, metrics, layers and draws, and removed again after the trace.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat import keras_internals, replacing, tensor_notes
from tfdist.global_batch import (
    activity_losses,
    batch_norm,
    losses_metrics,
    padded_rows,
    randomness,
    row_losses,
)
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position


@contextlib.contextmanager
def whole_batch_semantics(*, reduces_losses: bool) -> Iterator[None]:
    """Gives Keras's draws, losses and metrics the meaning of the global batch while tracing."""
    functions = randomness.keyed_draws(keras_internals.random_functions())
    functions |= batch_norm.global_moments()
    if reduces_losses:
        functions |= losses_metrics.global_reductions()
        functions |= padded_rows.functions()
        functions["Layer.add_loss"] = row_losses.added(functions["Layer.add_loss"])
    with replacing.replaced(functions), contextlib.ExitStack() as stack:
        if reduces_losses:
            weigh = losses_metrics.sum_of_rows
            stack.enter_context(activity_losses.weighed_sums(weigh))
        yield


def num_rows(data: Any) -> tf.Tensor:
    """Returns the rows of the first tensor in a structure, as an int32 scalar."""
    first = next(leaf for leaf in keras.tree.flatten(data) if leaf is not None)
    if isinstance(first, tf.RaggedTensor):
        return tf.cast(first.nrows(), tf.int32)
    # A fixed size stays a constant, which code can read while it is traced.
    return tf.shape(first)[0] if first.shape[0] is None else tf.constant(first.shape[0])


def undoing_filler(model: keras.Model, replica_fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Wraps a function that cannot cut the filler row of an empty replica: metrics are restored.

    XLA needs fixed shapes, and a model's own `train_step` gets its batch as it is. The row's
    gradients need no correction: they count with the weight 0.
    """

    def wrapped(data: Any) -> Any:
        position = position_lib.current()
        if position is None or _has_no_filler(position):
            return replica_fn(data)
        states = [variable.value for variable in model.metrics_variables]
        before = [tf.identity(state) for state in states]
        with position_lib.at(dataclasses.replace(position, keeps_filler=True)):
            result = replica_fn(data)
        for state, old in zip(states, before, strict=True):
            state.assign(tf.where(position.local_size > 0, state, old))
        return result

    return wrapped


def counted(structure: Any) -> Any:
    """Cuts the filler row of an empty replica, which must not count."""
    position = position_lib.current()
    if position is None or _has_no_filler(position):
        return structure

    def cut(value: Any) -> Any:
        if value is None or len(value.shape) == 0:
            return value
        return tensor_notes.with_notes(lambda rows: _first_rows(rows, position.local_size), value)

    return keras.tree.map_structure(cut, structure)


def _has_no_filler(position: Position) -> bool:
    """Tells whether no row has to be cut; a replica that has the whole batch is never empty."""
    return position.keeps_filler or not position.may_have_filler


def _first_rows(value: Any, count: Any) -> Any:
    if not isinstance(value, tf.SparseTensor):
        return value[:count]
    shape = tf.concat([[tf.cast(count, tf.int64)], value.dense_shape[1:]], 0)
    return tf.sparse.slice(value, tf.zeros_like(shape), shape)
