"""How does a `tf.data.Dataset` make its batches, and of what?

A dataset is read apart from its end: batches are made of examples, and examples, by maps of one
each, of elements that cost little. Who wants a few rows of each batch then has to make only those.

    files.shuffle(1000, seed=0)            elements: every worker goes through all of them
         .map(read).map(augment)           made of one element each
         .batch(256)                       batching
         .repeat().prefetch(2)             after the batching

What looks at the values of examples (a filter), or changes their number or order, ends the maps: a
`shuffle` above a map has a state, so it stays in the same dataset as what it shuffles. A map that
draws random numbers in order, or keeps a state, ends them too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.compat import tf_datasets

_MAPS = ("Map", "ParallelMap")
_BATCHES = ("Batch", "ParallelBatch")
_UNCHANGED = ("Prefetch", "Options")
_COUNTED = ("Repeat", "Take", "Skip")
# Operations with a state that a map only reads, or that hold none by themselves: the bodies of
# loops and calls are looked at too.
_HARMLESS = {
    "Assert", "Case", "If", "LookupTableFindV2", "LookupTableSizeV2", "PrintV2", "ReadVariableOp",
    "ResourceGather", "ResourceGatherNd", "StatefulPartitionedCall", "VarIsInitializedOp", "While",
}
OF_PYTHON = {"EagerPyFunc", "PyFunc"}


@dataclasses.dataclass(frozen=True)
class Examples:
    """How the examples of a dataset are made, one of one element.

    Attributes:
        elements: The dataset whose elements they are made of.
        make: Returns the example of an element, in a traced function.
        maps: The `map`s that `make` stands for.
        parallel_calls: How many examples are made at a time, as in `map`; None for one.
        obstacle: Why the elements themselves are not read apart further; None if nothing in them
            is made by a map.
    """

    elements: tf.data.Dataset
    make: Callable[[Any], Any]
    maps: tuple[tf.data.Dataset, ...] = ()
    parallel_calls: int | None = None
    obstacle: str | None = None

    @property
    def uses_python(self) -> bool:
        """Whether a map calls a Python function, which may have a state that nobody sees."""
        return any(
            OF_PYTHON & (tf_datasets.stateful_operations(part) or set()) for part in self.maps
        )


@dataclasses.dataclass(frozen=True)
class Counted:
    """What chooses elements, or repeats them, by their number alone.

    Attributes:
        kind: "Repeat", "Take", "Skip" or "AssertCardinality".
        count: Its number.
    """

    kind: str
    count: int

    @classmethod
    def of(cls, dataset: tf.data.Dataset) -> Counted | None:
        """Returns what a dataset does to its input; None if it is of another kind."""
        kind = tf_datasets.kind_of(dataset)
        if kind == "AssertCardinality":
            return cls(kind, int(dataset.cardinality()))
        count = tf_datasets.number_in(dataset, "count") if kind in _COUNTED else None
        return None if count is None else cls(kind, count)

    def __call__(self, dataset: tf.data.Dataset) -> tf.data.Dataset:
        """Does it to another dataset."""
        if self.kind == "AssertCardinality":
            return dataset.apply(tf.data.experimental.assert_cardinality(self.count))
        return getattr(dataset, self.kind.lower())(self.count)


@dataclasses.dataclass(frozen=True)
class Batching:
    """How batches are made of examples.

    Attributes:
        size: Rows of a batch.
        drops_remainder: Whether a smaller last batch is left out.
        parallel_calls: As in `Dataset.batch`; None for one.
        padding: The shapes and values of `padded_batch`, or None.
        splits_dtype: Of `ragged_batch`, the dtype of the row splits; else None.
    """

    size: int
    drops_remainder: bool
    parallel_calls: int | None = None
    padding: tuple[Any, Any] | None = None
    splits_dtype: tf.DType | None = None


@dataclasses.dataclass(frozen=True)
class Pipeline:
    """A dataset of batches, read apart.

    Attributes:
        examples: How its examples are made.
        batching: How its batches are made of them.
        after: What is done to the batches, in order.
    """

    examples: Examples
    batching: Batching
    after: tuple[Counted, ...]


def read_apart(dataset: tf.data.Dataset) -> Pipeline | str:
    """Returns how a dataset makes its batches, or the sentence why that cannot be told."""
    part, after = dataset, []
    while (counted := Counted.of(part)) or tf_datasets.kind_of(part) in _UNCHANGED:
        if counted is not None:
            after.append(counted)
        (part,) = tf_datasets.inputs_of(part)
    found = _batching(part)
    if isinstance(found, str):
        return found
    batching, source = found
    return Pipeline(examples_of(source), batching, tuple(reversed(after)))


def has_maps(dataset: tf.data.Dataset) -> bool:
    """Tells whether a map makes the elements of a dataset, or of one that it reads from."""
    return any(tf_datasets.kind_of(part) in _MAPS for part in tf_datasets.parts_of(dataset))


def examples_of(dataset: tf.data.Dataset) -> Examples:
    """Returns how the examples of a dataset are made."""
    kind = tf_datasets.kind_of(dataset)
    inputs = tf_datasets.inputs_of(dataset)
    if kind in _UNCHANGED:
        return examples_of(inputs[0])
    if (counted := Counted.of(dataset)) is not None:
        return _counted(dataset, counted)
    if kind == "Zip":
        return _zipped(dataset)
    if kind not in _MAPS:
        return Examples(dataset, lambda element: element, obstacle=_obstacle(dataset))
    states = tf_datasets.stateful_operations(dataset)
    if states is None or states - _HARMLESS - OF_PYTHON:
        return Examples(dataset, lambda element: element, obstacle=_state_in_map(states))
    inner = examples_of(inputs[0])
    calls = None
    if kind == "ParallelMap":
        calls = tf_datasets.number_in(dataset, "num_parallel_calls")
    return dataclasses.replace(
        inner,
        make=lambda element: tf_datasets.apply_map(dataset, inner.make(element)),
        maps=(*inner.maps, dataset),
        parallel_calls=_most(inner.parallel_calls, calls),
    )


def _counted(dataset: tf.data.Dataset, counted: Counted) -> Examples:
    inner = examples_of(*tf_datasets.inputs_of(dataset))
    if not inner.maps:
        return dataclasses.replace(inner, elements=dataset)
    # TensorFlow makes one of a shuffle and a repeat that follow each other, with another order.
    elements = inner.elements.prefetch(1) if counted.kind == "Repeat" else inner.elements
    return dataclasses.replace(inner, elements=counted(elements))


def _zipped(dataset: tf.data.Dataset) -> Examples:
    datasets = tf_datasets.zipped_in(dataset)
    if not isinstance(datasets, (tuple, dict)) or any(
        isinstance(part, (tuple, dict, list))
        for part in (datasets.values() if isinstance(datasets, dict) else datasets)
    ):
        return Examples(dataset, lambda element: element, obstacle=_obstacle(dataset))
    names = list(datasets) if isinstance(datasets, dict) else list(range(len(datasets)))
    parts = {name: examples_of(datasets[name]) for name in names}

    def packed(values: dict[Any, Any]) -> Any:
        return values if isinstance(datasets, dict) else tuple(values.values())

    calls = None
    for part in parts.values():
        calls = _most(calls, part.parallel_calls)
    return Examples(
        tf.data.Dataset.zip(packed({name: part.elements for name, part in parts.items()})),
        lambda element: packed({name: part.make(element[name]) for name, part in parts.items()}),
        maps=tuple(one for part in parts.values() for one in part.maps),
        parallel_calls=calls,
        obstacle=next((part.obstacle for part in parts.values() if part.obstacle), None),
    )


def _batching(dataset: tf.data.Dataset) -> tuple[Batching, tf.data.Dataset] | str:
    """Returns the batching that a dataset ends with, and the dataset of its examples."""
    kind = tf_datasets.kind_of(dataset)
    sizes = [tf_datasets.number_in(dataset, name) for name in ("batch_size", "drop_remainder")]
    inputs = tf_datasets.inputs_of(dataset)
    if kind in _BATCHES and None not in sizes:
        calls = tf_datasets.number_in(dataset, "num_parallel_calls")
        batching = Batching(sizes[0] or 0, bool(sizes[1]), calls)
        if tf_datasets.kind_of(inputs[0]) == "DenseToRagged":
            splits = {
                leaf.row_splits_dtype for leaf in tf.nest.flatten(inputs[0].element_spec)
                if isinstance(leaf, tf.RaggedTensorSpec)
            }
            dtype = splits.pop() if splits else tf.int64
            batching = dataclasses.replace(batching, splits_dtype=dtype)
            inputs = tf_datasets.inputs_of(inputs[0])
        return batching, inputs[0]
    padding = tf_datasets.padding_in(dataset)
    if kind == "PaddedBatch" and None not in sizes and padding is not None:
        if any(bool(tf.reduce_any(shape < 0)) for shape in tf.nest.flatten(padding[0])):
            return (
                "padded_batch() pads to the longest example of a batch, which may be another "
                "worker's. Give it padded_shapes without None"
            )
        return Batching(sizes[0] or 0, bool(sizes[1]), padding=padding), inputs[0]
    if kind in _MAPS:
        return (
            "a .map() after .batch() gets the rows of a batch together, and may mix them. Call "
            ".map() before .batch(), for one example at a time"
        )
    name = "?" if kind == "?" else f".{_method(kind)}()"
    return f"{name} comes after .batch(). End the dataset with .batch() and .prefetch()"


def _obstacle(dataset: tf.data.Dataset) -> str | None:
    """Says why a dataset's elements are not read apart, if there are maps in them."""
    if not any(map(has_maps, tf_datasets.inputs_of(dataset))):
        return None
    kind = tf_datasets.kind_of(dataset)
    if kind == "Cache":
        return (
            "all that is kept in a .cache() is made by each worker, once. Call .cache() before "
            ".map(), where making an example again costs less than what the others make"
        )
    name = "another step" if kind == "?" else f".{_method(kind)}()"
    return f"{name} comes after a .map(). Call it before .map(), where it can do without"


def _state_in_map(states: set[str] | None) -> str:
    found = "an unknown state" if states is None else ", ".join(sorted(states - _HARMLESS))
    return (
        f"the function of a .map() has a state or draws random numbers in order ({found}). Draw "
        "with tf.random.stateless_uniform, from a seed that is made of the example's number "
        "(.enumerate()), or augment by Keras's layers inside the model"
    )


def _method(kind: str) -> str:
    """Returns "padded_batch" for "PaddedBatch"."""
    return "".join(f"_{char.lower()}" if char.isupper() else char for char in kind).lstrip("_")


def _most(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return tf.data.AUTOTUNE if tf.data.AUTOTUNE in (one, other) else max(one, other)
