"""Which rows of a table's gradient come from the rows of the batch, and which occur once for all?

Every row of the batch looks up an embedding of words: its gradient has a row for each word, and the
rows of all replicas are concatenated, as on one device. An embedding of positions is looked up
once, whatever the batch: on one device each of its rows occurs once, with the sum over the batch.
Here every replica has a share of that sum, and the shares must be added row by row. To an optimizer
this makes a difference: Adam squares each row that it is given separately. So does a row that does
not count, though it is zero, and may be NaN: what an empty replica has looked up is cut.

The graph shows which of the two it is: it is a lookup by the rows of the batch if their number, or
a value in them, reaches the indices that were looked up.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.reduction import Lookups
from tfdist.compat.notes import note_of, set_note
from tfdist.data import rows
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position
from tfdist.step.dependence import constant, depends, leaves


def separated(gradients: Sequence[Any], inputs: Any = None) -> list[Any]:
    """Separates lookups that happen once for the batch from those of its rows.

    Args:
        gradients: One replica's gradients: tensors, IndexedSlices or None.
        inputs: The replica's rows in the traced graph; by default those of its position.

    Returns:
        The same gradients, with `Lookups` instead of IndexedSlices that do not all come from the
        rows, and none of an empty replica's. On one replica, and where steps run eagerly (see
        `separated_eagerly`), the gradients themselves.
    """
    position = position_lib.current()
    if position is None or position.collectives.num_replicas == 1 or tf.executing_eagerly():
        return list(gradients)
    return without_filler(_all_separated(gradients, position, inputs))


def without_filler(gradients: Sequence[Any]) -> list[Any]:
    """Cuts what an empty replica has looked up by its one row, which does not count.

    XLA compiles fixed numbers of rows: there nothing is cut, so that it is called outside as well.
    Nor is it where batches are padded.

    Args:
        gradients: A replica's, as `separated` returns them.
    """
    position = position_lib.current()
    if position is None or position.is_compiled or not position.may_have_filler:
        return list(gradients)

    def cut(gradient: Any) -> Any:
        if isinstance(gradient, Lookups):
            return Lookups(cut(gradient.of_batch), gradient.shared)
        if not isinstance(gradient, tf.IndexedSlices):
            return gradient
        count = tf.where(position.local_size > 0, tf.shape(gradient.indices)[0], 0)
        values, indices = gradient.values[:count], gradient.indices[:count]
        return tf.IndexedSlices(values, indices, gradient.dense_shape)

    return [cut(gradient) for gradient in gradients]


def separated_eagerly(
    gradients: Sequence[Any], *, model: keras.Model, traced: Callable[[Any], list[Any]], data: Any
) -> list[Any]:
    """Does the same as `separated` where steps run eagerly and no graph shows the lookups.

    Args:
        gradients: This replica's gradients.
        model: The model; the result is kept with it.
        traced: Computes the gradients of a replica's rows; it is traced once, but not run.
        data: The replica's rows.

    Raises:
        ValueError: A table is looked up both ways, which cannot be told apart without a graph.
    """
    position = position_lib.current()
    has_rows = any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
    if position is None or position.collectives.num_replicas == 1 or not has_rows:
        return list(gradients)
    shared = note_of(model, "shared_lookups")
    if shared is None:
        shared = _shared_in(traced, data, position)
        set_note(model, "shared_lookups", shared)
    return without_filler(
        [Lookups(None, g) if i in shared else g for i, g in enumerate(gradients)]
    )


def _shared_in(traced: Callable[[Any], list[Any]], data: Any, position: Position) -> set[int]:
    """Returns the indices of the gradients of tables that are looked up once for the batch."""
    found: set[int] = set()

    def trace(batch: Any) -> None:
        inputs = tuple(keras.tree.flatten(batch))
        # No other replica takes part in this trace.
        alone = dataclasses.replace(
            position, collectives=collectives.alone(), fixed_rows=None, inputs=inputs
        )
        with position_lib.at(alone):
            gradients = _all_separated(traced(batch), alone, batch)
        for number, gradient in enumerate(gradients):
            if not isinstance(gradient, Lookups):
                continue
            if gradient.of_batch is not None:
                raise ValueError(
                    "A table is looked up by the rows of the batch, and once for all of them as "
                    "well, which on several replicas cannot be told apart where steps run eagerly. "
                    "Compile with run_eagerly=False."
                )
            found.add(number)

    specs = rows.spec_of(data)
    specs = specs if position.padded_rows else rows.open_spec(specs)
    tf.function(trace, autograph=False).get_concrete_function(specs)
    return found


def _all_separated(gradients: Sequence[Any], position: Position, inputs: Any) -> list[Any]:
    sources = leaves(position.inputs if inputs is None else inputs)
    fixed = position.padded_rows or position.fixed_rows
    return [
        _separated(g, sources, fixed) if isinstance(g, tf.IndexedSlices) else g
        for g in gradients
    ]


def _separated(gradient: tf.IndexedSlices, sources: set[int], fixed: int | None) -> Any:
    parts = _side_by_side(gradient.indices)
    are_of_batch = [_is_of_batch(part, sources, fixed) for part in parts]
    if all(are_of_batch):
        return gradient
    values = [gradient.values]
    if len(parts) > 1:
        values = tf.split(gradient.values, [tf.shape(part)[0] for part in parts])
    pairs = list(zip(values, parts, are_of_batch, strict=True))
    of_batch, shared = (
        _joined([(v, i) for v, i, is_of_batch in pairs if is_of_batch is wanted], gradient)
        for wanted in (True, False)
    )
    return Lookups(of_batch, shared)


def _joined(parts: list[tuple[Any, Any]], like: tf.IndexedSlices) -> Any:
    if not parts:
        return None
    values, indices = zip(*parts, strict=True)
    if len(parts) == 1:
        return tf.IndexedSlices(values[0], indices[0], like.dense_shape)
    return tf.IndexedSlices(tf.concat(values, 0), tf.concat(indices, 0), like.dense_shape)


def _side_by_side(indices: Any) -> list[Any]:
    """Returns the indices of each lookup of one table, which the tape has put side by side."""
    if indices.op.type != "ConcatV2":
        return [indices]
    return [part for one in indices.op.inputs[:-1] for part in _side_by_side(one)]


def _is_of_batch(indices: Any, sources: set[int], fixed: int | None) -> bool:
    count = indices.shape[0]
    reaches, is_own = depends(indices, sources)
    if is_own:  # what a replica draws by itself is not the same on the others
        return True
    if fixed is None:
        return count is None and reaches
    # The number of rows was a constant to whoever made these indices.
    if reaches or count is None or count % fixed or fixed == 1:
        return reaches or count is None
    known = constant(indices)
    if known is None:
        return True
    of_rows = np.reshape(known, [fixed, -1])
    return bool((of_rows == of_rows[0]).all())
