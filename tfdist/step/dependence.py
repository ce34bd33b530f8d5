"""Does a tensor depend on the rows of the batch? Its graph tells.

A value that does not is the same on every replica. One that does may still be the same, but nobody
can know.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.compat.untraced import outside_of_steps

# In the types of operations that hold, or may hold, a generator of their own.
_DRAWING = ("Random", "Multinomial", "TruncatedNormal", "Stateful")


def leaves(structure: Any) -> set[int]:
    """Returns the ids of the tensors in a structure: what `depends` takes as sources."""
    return {id(leaf) for leaf in tf.nest.flatten(structure, expand_composites=True)}


@dataclasses.dataclass(frozen=True)
class Origins:
    """What a tensor is made of.

    Attributes:
        has_rows: Whether of the values, or of the number, of a replica's rows.
        is_drawn: Whether of what TensorFlow itself draws, which is not the same on all replicas.
        has_known: Whether of a tensor that is known to be the same on all replicas.
    """

    has_rows: bool
    is_drawn: bool
    has_known: bool


def depends(tensor: Any, sources: set[int]) -> tuple[bool, bool]:
    """Tells whether a tensor of a graph depends on rows, and whether on draws; see `origins`."""
    found = origins(tensor, sources)
    return found.has_rows, found.is_drawn


def origins(tensor: Any, sources: set[int], known: Container[int] = ()) -> Origins:
    """Tells what a tensor of a graph depends on.

    Args:
        tensor: The tensor.
        sources: Ids of the tensors that hold a replica's rows, see `leaves`.
        known: Ids of tensors that are the same on all replicas, whatever they are made of.

    Returns:
        What it depends on, besides what the known tensors are made of.
    """
    seen, found = set(), [tensor]
    reaches = is_own = has_known = False
    while found:
        tensor = found.pop()
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        if id(tensor) in known:
            has_known = True
        elif id(tensor) in sources:
            reaches = True
        elif isinstance(tensor, tf.Tensor) and not hasattr(tensor, "numpy"):
            found += _origins(tensor)
            kind = tensor.op.type
            if kind == "Placeholder" and not _captured(tensor):
                # An argument of a function that people have traced themselves.
                reaches |= tensor.dtype not in (tf.resource, tf.variant)
            is_own |= tensor.op.op_def.is_stateful and any(word in kind for word in _DRAWING)
    return Origins(reaches, is_own, has_known)


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


def constant(tensor: Any) -> np.ndarray | None:
    """Returns the value of a tensor that follows from constants alone; None of any other."""
    nodes, found = {}, [tensor.op]
    while found:
        operation = found.pop()
        kinds = {attribute.type for attribute in operation.op_def.attr}
        if operation.type == "Placeholder" or operation.op_def.is_stateful or "func" in kinds:
            return None
        if operation.name not in nodes:
            nodes[operation.name] = operation.node_def
            found += [value.op for value in operation.inputs]
    graph = tf.compat.v1.GraphDef(node=nodes.values())
    for node in graph.node:
        node.device = ""
        node.input[:] = [name for name in node.input if not name.startswith("^")]

    def computed() -> np.ndarray:
        run = tf.compat.v1.wrap_function(
            lambda: tf.import_graph_def(graph, return_elements=[tensor.name]), []
        )
        with tf.device("/CPU:0"):
            return run()[0].numpy()

    return outside_of_steps(computed)
