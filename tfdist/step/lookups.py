"""Which rows of a table's gradient come of the rows of the batch, and which are there once for all?

An embedding of words is looked up by every row of the batch: its gradient has a row for each word,
and those of all replicas stand side by side, as on one device. An embedding of positions is looked
up once, whatever the batch: on one device each of its rows is there once, with the sum over the
batch. Here every replica has a share of that sum, and the shares have to be added, row by row. To
an optimizer the two are not the same: Adam squares what it is given for each row apart.

Which of the two it is can be seen in the graph: does the number of rows, or a value in them, reach
the indices that were looked up?
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.reduction import Lookups
from tfdist.compat.notes import note_of, set_note
from tfdist.compat.untraced import outside_of_steps
from tfdist.data import rows
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position


def taken_apart(gradients: Sequence[Any], inputs: Any = None) -> list[Any]:
    """Returns gradients in which what is looked up once for the batch stands by itself.

    Args:
        gradients: A replica's: tensors, IndexedSlices or None.
        inputs: The replica's rows in the graph that is traced; by default those of its position.

    Returns:
        The same, with `Lookups` for IndexedSlices of which a part does not come of the rows. Where
        there is one replica, and where steps run eagerly (see `seen_eagerly`), what was given.
    """
    place = position_lib.current()
    if place is None or place.collectives.num_replicas == 1 or tf.executing_eagerly():
        return list(gradients)
    return _all_taken_apart(gradients, place, inputs)


def seen_eagerly(
    gradients: Sequence[Any], *, model: keras.Model, traced: Callable[[Any], list[Any]], data: Any
) -> list[Any]:
    """Does as `taken_apart` where steps run eagerly, so that no graph tells what was looked up.

    Args:
        gradients: This replica's.
        model: The model; what is found is kept with it.
        traced: Computes the gradients of a replica's rows; it is traced once, and not run.
        data: The replica's rows.

    Raises:
        ValueError: A table is looked up both ways, which cannot be told apart without a graph.
    """
    place = position_lib.current()
    has_rows = any(isinstance(gradient, tf.IndexedSlices) for gradient in gradients)
    if place is None or place.collectives.num_replicas == 1 or not has_rows:
        return list(gradients)
    shared = note_of(model, "shared_lookups")
    if shared is None:
        shared = _shared_in(traced, data, place)
        set_note(model, "shared_lookups", shared)
    return [Lookups(None, g) if i in shared else g for i, g in enumerate(gradients)]


def _shared_in(traced: Callable[[Any], list[Any]], data: Any, place: Position) -> set[int]:
    """Returns the numbers of the gradients that come of what is looked up once for the batch."""
    found: set[int] = set()

    def trace(batch: Any) -> None:
        inputs = tuple(keras.tree.flatten(batch))
        # Nobody else takes part in this trace.
        alone = dataclasses.replace(
            place, collectives=collectives.alone(), fixed_rows=None, inputs=inputs
        )
        with position_lib.at(alone):
            gradients = _all_taken_apart(traced(batch), alone, batch)
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

    specs = keras.tree.map_structure(tf.type_spec_from_value, data, none_is_leaf=False)
    specs = specs if place.padded_rows else rows.open_spec(specs)
    tf.function(trace, autograph=False).get_concrete_function(specs)
    return found


def _all_taken_apart(gradients: Sequence[Any], place: Position, inputs: Any) -> list[Any]:
    sources = {id(leaf) for leaf in _leaves(place.inputs if inputs is None else inputs)}
    fixed = place.padded_rows or place.fixed_rows
    return [
        _taken_apart(g, sources, fixed) if isinstance(g, tf.IndexedSlices) else g
        for g in gradients
    ]


def _leaves(structure: Any) -> Iterator[tf.Tensor]:
    yield from tf.nest.flatten(structure, expand_composites=True)


def _taken_apart(gradient: tf.IndexedSlices, sources: set[int], fixed: int | None) -> Any:
    of_batch: list[tuple[Any, Any]] = []
    shared: list[tuple[Any, Any]] = []
    for values, indices in _summands(gradient.values, gradient.indices):
        is_of_batch = _is_of_batch(indices, sources, fixed)
        (of_batch if is_of_batch else shared).append((values, indices))
    if not shared:
        return gradient
    return Lookups(_side_by_side(of_batch, gradient), _side_by_side(shared, gradient))


def _side_by_side(parts: list[tuple[Any, Any]], like: tf.IndexedSlices) -> Any:
    if not parts:
        return None
    values, indices = zip(*parts, strict=True)
    if len(parts) == 1:
        return tf.IndexedSlices(values[0], indices[0], like.dense_shape)
    return tf.IndexedSlices(tf.concat(values, 0), tf.concat(indices, 0), like.dense_shape)


def _summands(values: Any, indices: Any) -> list[tuple[Any, Any]]:
    """Returns the lookups of one table apart, which the tape has put side by side."""
    is_joined = values.op.type == indices.op.type == "ConcatV2"
    if not is_joined or len(values.op.inputs) != len(indices.op.inputs):
        return [(values, indices)]
    pairs = zip(values.op.inputs[:-1], indices.op.inputs[:-1], strict=True)
    return [pair for v, i in pairs for pair in _summands(v, i)]


def _is_of_batch(indices: Any, sources: set[int], fixed: int | None) -> bool:
    count = indices.shape[0]
    if fixed is None:
        return count is None and _reaches(indices, sources)
    if _reaches(indices, sources):
        return True
    # The number of rows was a constant to whoever made these indices.
    if count is None or count % fixed or fixed == 1:
        return count is None
    known = _known(indices)
    if known is None:
        return True
    of_rows = np.reshape(known, [fixed, -1])
    return bool((of_rows == of_rows[0]).all())


def _known(indices: Any) -> np.ndarray | None:
    """Returns indices that follow from constants alone; None where they do not."""
    nodes, found = {}, [indices.op]
    while found:
        operation = found.pop()
        kinds = {attribute.type for attribute in operation.op_def.attr}
        if operation.type == "Placeholder" or operation.op_def.is_stateful or "func" in kinds:
            return None
        if operation.name not in nodes:
            nodes[operation.name] = operation.node_def
            found += [tensor.op for tensor in operation.inputs]
    graph = tf.compat.v1.GraphDef(node=nodes.values())
    for node in graph.node:
        node.device = ""
        node.input[:] = [name for name in node.input if not name.startswith("^")]

    def computed() -> np.ndarray:
        run = tf.compat.v1.wrap_function(
            lambda: tf.import_graph_def(graph, return_elements=[indices.name]), []
        )
        with tf.device("/CPU:0"):
            return run()[0].numpy()

    return outside_of_steps(computed)


def _reaches(tensor: Any, sources: set[int]) -> bool:
    """Tells whether a tensor depends on the values, or on the number, of the rows of a batch."""
    seen, found = set(), [tensor]
    while found:
        tensor = found.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in sources:
            return True
        if isinstance(tensor, tf.Tensor) and not hasattr(tensor, "numpy"):
            found += _origins(tensor)
            is_argument = tensor.op.type == "Placeholder" and not _captured(tensor)
            if is_argument and tensor.dtype not in (tf.resource, tf.variant):
                return True  # of a function that people have traced themselves
    return False


def _origins(tensor: Any) -> list[Any]:
    """Returns the tensors that a tensor of a graph is made of, of outer graphs too."""
    operation = tensor.op
    if operation.type == "Placeholder":
        return _captured(tensor)
    if operation.type == "Rank" or _is_other_dimension(operation):
        return []
    return list(operation.inputs)


def _captured(placeholder: Any) -> list[Any]:
    captures = getattr(placeholder.graph, "captures", ())
    return [outer for outer, inner in captures if inner is placeholder]


def _is_other_dimension(operation: Any) -> bool:
    """Tells whether an operation picks a dimension of a shape that is not the first one."""
    if operation.type != "StridedSlice" or operation.inputs[0].op.type != "Shape":
        return False
    first = tf.get_static_value(operation.inputs[1])
    is_one = operation.get_attr("shrink_axis_mask") == 1
    rank = operation.inputs[0].op.inputs[0].shape.rank
    return first is not None and is_one and int(first[0]) not in (0, -(rank or 1))
