"""Which private names of TensorFlow tell what a `tf.data.Dataset` is made of?

A part that a release hides has the kind "?", and the functions here give None or nothing for it:
who reads a dataset apart then takes it as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import tensorflow as tf

from tfdist.compat.keras_internals import module
from tfdist.compat.tf_internals import bodies_of


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


def parts_of(dataset: tf.data.Dataset) -> Iterator[tf.data.Dataset]:
    """Yields a dataset, and all datasets that it reads from, each once."""
    waiting, seen = [dataset], set()
    while waiting:
        part = waiting.pop()
        if id(part) not in seen:
            seen.add(id(part))
            yield part
            waiting += inputs_of(part)


def graphs_in(dataset: tf.data.Dataset) -> Iterator[Any]:
    """Yields the graphs of the functions of one dataset, without those that it reads from."""
    for function in getattr(dataset, "_functions", list)():
        yield function.function.graph.as_graph_def()


def batch_size_of(dataset: tf.data.Dataset) -> int | None:
    """Returns the size of the last `.batch(n)` of a dataset; None if none is visible."""
    sizes = (number_in(part, "batch_size") for part in parts_of(dataset))
    return next((size for size in sizes if size is not None), None)


def seeds_of(part: Any) -> tuple[int, int] | None:
    """Returns the two seeds of a part of a dataset; None if it draws no random numbers."""
    seeds = number_in(part, "seed"), number_in(part, "seed2")
    return None if None in seeds else seeds  # type: ignore[return-value]


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
    kinds = {node.op for nodes in bodies_of(graph) for node in nodes}
    definitions = {kind: registry.get(kind) for kind in kinds}
    defined = {function.signature.name for function in graph.library.function}
    return {
        kind for kind, definition in definitions.items()
        if kind not in defined and (definition is None or definition.is_stateful)
    }
