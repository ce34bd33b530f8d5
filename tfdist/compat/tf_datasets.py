"""Which private names of TensorFlow tell what a `tf.data.Dataset` is made of?

A part that a release hides has the kind "?", and the functions here give None or nothing for it:
who reads a dataset apart then takes it as a whole.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from tfdist.compat.keras_internals import module


def kind_of(dataset: tf.data.Dataset) -> str:
    """Returns what a dataset does to those that it reads from, such as "Map" or "Shuffle".

    >>> kind_of(tf.data.Dataset.range(3).repeat().batch(2))
    'Batch'
    """
    name = type(dataset).__name__
    return name.strip("_").removesuffix("Dataset") if name.endswith("Dataset") else "?"


def inputs_of(dataset: tf.data.Dataset) -> list[tf.data.Dataset]:
    """Returns the datasets that a dataset reads from."""
    return list(getattr(dataset, "_inputs", list)())


def zipped_in(dataset: tf.data.Dataset) -> Any:
    """Returns the structure of datasets that a "Zip" reads side by side; None if unknown."""
    return getattr(dataset, "_datasets", None)


def number_in(dataset: tf.data.Dataset, name: str) -> int | None:
    """Returns a number that a dataset was made with, such as its "batch_size"; None if unknown."""
    value = getattr(dataset, f"_{name}", None)
    return None if value is None else int(value)


def padding_in(dataset: tf.data.Dataset) -> tuple[Any, Any] | None:
    """Returns the shapes and the values that a "PaddedBatch" pads with; None if unknown.

    Returns:
        Two structures like an element of its input: int64 vectors in which -1 stands for the
        longest of the batch, and scalars.
    """
    shapes = getattr(dataset, "_padded_shapes", None)
    values = getattr(dataset, "_padding_values", None)
    return None if shapes is None or values is None else (shapes, values)


def apply_map(dataset: tf.data.Dataset, element: Any) -> Any:
    """Returns what the function of a "Map" or "ParallelMap" makes of an element of its input."""
    structure = module("tensorflow.python.data.util.structure")
    wrapper = dataset._map_func
    (source,) = dataset._inputs()
    tensors = structure.to_tensor_list(source.element_spec, element)
    return structure.from_tensor_list(dataset.element_spec, wrapper.function(*tensors))


def stateful_operations(dataset: tf.data.Dataset) -> set[str] | None:
    """Returns the kinds of operations with a state in a map's function; None if unknown."""
    registry = module("tensorflow.python.framework.op_def_registry")
    wrapper = getattr(dataset, "_map_func", None)
    if wrapper is None:
        return None
    graph = wrapper.function.graph.as_graph_def()
    nodes = [*graph.node, *(node for inner in graph.library.function for node in inner.node_def)]
    definitions = {node.op: registry.get(node.op) for node in nodes}
    defined = {function.signature.name for function in graph.library.function}
    return {
        kind for kind, definition in definitions.items()
        if kind not in defined and (definition is None or definition.is_stateful)
    }
