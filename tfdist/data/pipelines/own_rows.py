"""How does a worker make only its own rows of a dataset's batches?

All workers go through the elements of a dataset (pipeline.py) in the same order. As many as belong
to one batch are looked at together: their number says which rows are this worker's, also where the
last batch is smaller. It makes examples of those alone.
"""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.communication.share import Share, bounds
from tfdist.compat import tf_datasets, tf_internals
from tfdist.compat.notes import note_of
from tfdist.data import same_data
from tfdist.data.pipelines.pipeline import (
    OF_PYTHON,
    Batching,
    Examples,
    Pipeline,
    has_maps,
    read_apart,
)
from tfdist.data.rows import unconverted

_SPECS = (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)
_SAME_ELEMENTS = ("Options", "Prefetch", "Repeat", "Shuffle", "Skip", "Take")


@dataclasses.dataclass(frozen=True)
class OwnRows:
    """The stream of what a worker makes of each batch.

    Attributes:
        dataset: The dataset, which is kept alive, as is what its functions use.
        pipeline: The dataset, read apart.
        share: Which replicas this worker feeds.
        height: Rows that are made of each batch, or all, where it is smaller: those of the
            worker's replicas, and in some sizes of batches one beside them, since of a smaller
            last batch a worker may have one row more.
    """

    dataset: tf.data.Dataset
    pipeline: Pipeline
    share: Share
    height: int

    @property
    def order(self) -> Any:
        """The order of the elements (files/), if that is known for each pass; or None."""
        examples = self.pipeline.examples
        return None if self.pipeline.after else note_of(examples.elements, "order")

    @property
    def facts(self) -> dict[str, Any]:
        """What of the order must be the same on every worker, by name."""
        return {} if self.order is None else {"order of records": repr(self.order)}

    @property
    def fixed_size(self) -> int | None:
        """The rows of every global batch; None if the last one may be smaller."""
        batching = self.pipeline.batching
        return batching.size if batching.drops_remainder else None

    def first_of(self, global_size: tf.Tensor) -> tf.Tensor:
        """Returns the first row of a global batch of this size that is made: an int32 scalar."""
        first, _ = bounds(global_size, self.share.first_replica, self.share.num_replicas)
        return tf.maximum(tf.minimum(first, global_size - self.height), 0)

    def batches(self, start: int) -> tf.data.Dataset:
        """Returns the dataset of `(global_size, first, sample, rows)` from a batch on.

        The rows are those from row `first` of the global batch on. Each iterator over it is the
        next pass.

        Args:
            start: Number of batches that are left out. Where nothing comes after the batching,
                none of their examples is made.
        """
        if not self.pipeline.after:
            return self._with_options(self._made_of(self.pipeline.examples.elements, start))
        batches = self._made_of(self.pipeline.examples.elements)
        for counted in self.pipeline.after:
            batches = counted(batches)
        return self._with_options(batches.skip(start))

    def passes(self, first_pass: int, start: int) -> tf.data.Dataset:
        """Returns what `batches` does, from a batch of a pass on, and all passes after it.

        Nothing before is read. The order has to be known.
        """
        begin = start * self.pipeline.batching.size

        def one_pass(number: tf.Tensor) -> tf.data.Dataset:
            left_out = tf.where(number == first_pass, tf.constant(begin, tf.int64), 0)
            return self._made_of(self.order.numbers(number, left_out))

        numbers = tf.data.Dataset.range(first_pass, np.iinfo(np.int64).max)
        return self._with_options(numbers.flat_map(unconverted(one_pass)))

    def _with_options(self, batches: tf.data.Dataset) -> tf.data.Dataset:
        options = tf.data.Options().merge(self.dataset.options())
        options.deterministic = True
        return batches.with_options(options)

    def _made_of(self, elements: tf.data.Dataset, start: int = 0) -> tf.data.Dataset:
        """Returns the batches that are made of elements, from a batch on."""
        examples, batching = self.pipeline.examples, self.pipeline.batching
        windows = elements.window(batching.size, drop_remainder=batching.drops_remainder)
        own = windows.skip(start).flat_map(unconverted(self._own_elements))
        made = own.map(
            unconverted(lambda facts, element: (facts, examples.make(element))),
            num_parallel_calls=examples.parallel_calls,
            deterministic=None if examples.parallel_calls is None else True,
        )
        batches = _batched(made, self.height, batching)
        return batches.map(unconverted(lambda facts, data: (*[one[0] for one in facts], data)))

    def _own_elements(self, *window: Any) -> tf.data.Dataset:
        """Returns the elements of a window that are this worker's, each with the batch's facts."""
        spec = self.pipeline.examples.elements.element_spec
        structure = tf.nest.pack_sequence_as(spec, tf.nest.flatten(window))
        elements = tf.data.Dataset.zip(structure)
        size = elements.cardinality()
        global_size = tf.cast(size, tf.int32)
        first = self.first_of(global_size)
        facts = (global_size, first, self._sample(structure, size))
        own = elements.skip(tf.cast(first, tf.int64)).take(self.height)
        return tf.data.Dataset.zip((tf.data.Dataset.from_tensors(facts).repeat(), own))

    def _sample(self, window: Any, size: tf.Tensor) -> tf.Tensor:
        """Returns a number that differs where other elements, or another order, were read."""
        spec = self.pipeline.examples.elements.element_spec
        total = tf.zeros([], tf.int64)
        for leaf, leaf_spec in zip(tf.nest.flatten(window), tf.nest.flatten(spec), strict=True):
            if isinstance(leaf_spec, tf.TensorSpec) and leaf_spec.shape.is_fully_defined():
                together = leaf.batch(size)
            else:  # examples of many lengths do not fit into one tensor
                one = unconverted(lambda value: same_data.sample([tf.expand_dims(value, 0)]))
                if not isinstance(leaf_spec, tf.TensorSpec):
                    one = unconverted(lambda value: same_data.sample([value]))
                together = leaf.map(one).batch(size)
            total = total * 31 + same_data.sample([together.get_single_element()])
        return total


def own_rows(dataset: tf.data.Dataset, share: Share) -> OwnRows | str | None:
    """Returns the stream of a worker's own rows of a dataset's batches.

    Args:
        dataset: Batched in global batches.
        share: Which replicas this worker feeds.

    Returns:
        The stream; None if a worker saves nothing by it, since no map makes the examples, or it is
        alone and has to read them from the beginning; or why each worker has to make all of them,
        as a part of a sentence.
    """
    is_ordered = any(note_of(part, "order") for part in tf_datasets.parts_of(dataset))
    if not share.has_others and not is_ordered:
        return None
    pipeline = read_apart(dataset)
    if isinstance(pipeline, str):
        return pipeline if has_maps(dataset) else None
    examples, size = pipeline.examples, pipeline.batching.size
    if not examples.maps:
        return examples.obstacle
    leaves = tf.nest.flatten(examples.elements.element_spec)
    if not all(isinstance(leaf, _SPECS) for leaf in leaves):
        return "its .map() takes something else than tensors. Call .map() on examples"
    if examples.uses_python and (reason := _state_of_python(examples)):
        return reason
    sizes = range(1, size + 1)
    height = max(stop - first for first, stop in (_own(rows_of, share) for rows_of in sizes))
    return OwnRows(dataset, pipeline, share, height)


def _own(global_size: Any, share: Share) -> tuple[Any, Any]:
    """Returns the rows of a batch that this worker's replicas compute on, of Python's integers."""
    first, _ = bounds(global_size, share.replicas[0], share.num_replicas)
    begin, stop = bounds(global_size, share.replicas[-1], share.num_replicas)
    last = global_size - 1
    return min(first, last), max(stop, min(begin, last) + 1)  # one for an empty replica


def _batched(made: tf.data.Dataset, height: int, batching: Batching) -> tf.data.Dataset:
    drops = batching.drops_remainder
    if batching.padding is not None:
        shapes, values = batching.padding
        none: Any = (tf.constant(0, tf.int32),) * 2 + (tf.constant(0, tf.int64),)
        return made.padded_batch(height, (((),) * 3, shapes), (none, values), drop_remainder=drops)
    if batching.splits_dtype is not None:
        return made.ragged_batch(height, drops, batching.splits_dtype)
    return made.batch(height, drop_remainder=drops, num_parallel_calls=batching.parallel_calls)


def _state_of_python(examples: Examples) -> str | None:
    """Says why a map that calls Python must see all examples; None if it gives the same twice."""
    order = note_of(examples.elements, "order")
    source = examples.elements if order is None else order.numbers(np.int64(0), np.int64(0))
    while tf_datasets.kind_of(source) in _SAME_ELEMENTS:
        (source,) = tf_datasets.inputs_of(source)
    cure = (
        "Declare it by tf.numpy_function(..., stateful=False) where it keeps no state and draws "
        "no random numbers"
    )
    is_random = any(True for _ in same_data.random_parts(source))
    if order is None and (is_random or _calls_python(source)):
        return f"whether the Python function of a .map() keeps a state cannot be tried. {cure}"
    before = _states()
    try:
        for element in source.take(1):
            once, again = (tf.nest.flatten(examples.make(element)) for _ in range(2))
            if _states() != before or not all(map(_is_same, once, again)):
                return f"the Python function of a .map() gives another result each time. {cure}"
    except tf.errors.OpError:
        return None  # the first batch will say it, with all that is known there
    return None


def _calls_python(dataset: tf.data.Dataset) -> bool:
    """Tells whether reading a dataset, a generator's say, runs Python code."""
    python = {"GeneratorDataset", *OF_PYTHON}
    return any(
        node.op in python
        for part in tf_datasets.parts_of(dataset)
        for graph in tf_datasets.graphs_in(part)
        for nodes in tf_internals.bodies_of(graph)
        for node in nodes
    )


def _states() -> tuple[str, int]:
    """Returns what tells whether NumPy's and Python's generators were drawn from."""
    return repr(np.random.get_state()), hash(random.getstate())


def _is_same(one: Any, other: Any) -> bool:
    if isinstance(one, tf.Tensor):
        return one.numpy().tobytes() == other.numpy().tobytes() and one.shape == other.shape
    return all(map(_is_same, tf.nest.flatten(one, True), tf.nest.flatten(other, True)))
