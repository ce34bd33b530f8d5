"""Which rows of arrays in memory are in a batch, where the traced loop gathers them itself?

Handing over a few kilobytes takes a pipeline longer than a small model needs for its step. So the
loop gets the whole arrays and the order of a pass, and gathers the rows of each batch itself; a
`Cursor` says where in the passes it is. Large batches are left to a pipeline, which gathers the
next one while a step runs.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.data import rows

#: Bytes of a global batch up to which gathering in the loop was faster.
MOST_BYTES = 2**21


@dataclasses.dataclass(frozen=True)
class Gathering:
    """How the rows of a batch are gathered; it holds no data, so that a trace may keep it.

    Attributes:
        spec: `x`, `(x, y)` or `(x, y, sample_weight)`: tensor specs with an open number of rows.
        batch_size: Rows of a global batch; the last one of a pass may be smaller.
        replicas: Numbers of this worker's replicas.
        num_replicas: Replicas of all workers together.
    """

    spec: Any
    batch_size: int
    replicas: range
    num_replicas: int

    @functools.cached_property
    def key(self) -> str:
        """A text that identifies how rows are gathered; specs themselves cannot be hashed."""
        return repr(self)

    @property
    def specs(self) -> list[tf.TensorSpec]:
        """The specs of the tensors, flat."""
        return _flat(self.spec)

    def batch(
        self, tensors: Sequence[tf.Tensor], order: tf.Tensor, number: tf.Tensor
    ) -> tuple[tf.Tensor, tuple[Any, ...]]:
        """Gathers a batch.

        Args:
            tensors: One for each of `specs`, with all examples.
            order: The order of the examples of the pass, int64 `(num_examples,)`.
            number: Number of the batch in the pass, from 0; an int64 scalar.

        Returns:
            The rows of the global batch, an int32 scalar, and for each replica of this worker the
            structure with its rows; an empty replica gets one row that does not count.
        """
        indices = order[number * self.batch_size : (number + 1) * self.batch_size]
        global_size = tf.size(indices)
        parts = tuple(
            self._taken(tensors, own_rows(indices, global_size, replica, self.num_replicas))
            for replica in self.replicas
        )
        return global_size, parts

    def _taken(self, tensors: Sequence[tf.Tensor], indices: tf.Tensor) -> Any:
        taken = iter([tf.gather(tensor, indices) for tensor in tensors])
        return keras.tree.map_structure(lambda _: next(taken), self.spec, none_is_leaf=False)


@dataclasses.dataclass(frozen=True)
class Arrays:
    """Arrays from which a loop gathers the rows of each batch.

    Attributes:
        tensors: Dense tensors with one row per example, in the order of `gathering.specs`.
        num_examples: Rows of each of them.
        order: Takes the number of a pass; returns the order of its examples, int64
            `(num_examples,)`, or what else its `gathering` understands.
        gathering: How the rows are gathered: a `Gathering`, or what has its `key`, `spec`, `specs`
            and `batch`.
        num_batches: Batches of a pass.
    """

    tensors: list[tf.Tensor]
    num_examples: int
    order: Callable[[int], np.ndarray]
    gathering: Any
    num_batches: int


def arrays_of(
    structure: Any,
    *,
    order: Callable[[int], np.ndarray],
    batch_size: int,
    replicas: range,
    num_replicas: int,
) -> Arrays | None:
    """Returns the arrays if a loop should gather them itself; None if a pipeline is faster.

    Args:
        structure: As `as_tensors` returns it.
        order: As in `Arrays`.
        batch_size: As in `Gathering`.
        replicas: As in `Gathering`.
        num_replicas: As in `Gathering`.
    """
    tensors = _flat(structure)
    if not all(isinstance(tensor, tf.Tensor) for tensor in tensors):
        return None  # sparse or ragged
    row_bytes = sum(tensor.dtype.size * int(np.prod(tensor.shape[1:])) for tensor in tensors)
    if row_bytes * batch_size > MOST_BYTES:
        return None
    spec = rows.spec_of(structure)
    gathering = Gathering(rows.open_spec(spec), batch_size, replicas, num_replicas)
    examples = int(tensors[0].shape[0])
    return Arrays(tensors, examples, order, gathering, -(-examples // batch_size))


def as_tensors(structure: Any) -> Any:
    """Turns the dense arrays of a structure into tensors on the host.

    Args:
        structure: As `keras_internals.adapter_arrays` returns it.
    """
    with tf.device("/CPU:0"):
        return keras.tree.map_structure(
            lambda leaf: tf.convert_to_tensor(leaf) if isinstance(leaf, np.ndarray) else leaf,
            structure,
            none_is_leaf=False,
        )


def _flat(structure: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(structure) if leaf is not None]


def own_rows(indices: tf.Tensor, size: Any, replica: int, num_replicas: int) -> tf.Tensor:
    """Returns a replica's part of a global batch's `indices`, never an empty one."""
    if num_replicas == 1:
        return indices
    start, stop = rows.computed_bounds(size, replica, num_replicas)
    return indices[start:stop]


class Cursor:
    """Where a loop is in the passes over arrays.

    Args:
        arrays: The arrays.
        first_pass: Number of a pass.
        batch: Number of the next batch, counted from the first one of that pass; it may lie in a
            later one.
    """

    def __init__(self, arrays: Arrays, first_pass: int, batch: int) -> None:
        self.arrays = arrays
        passes, self.batch = divmod(batch, arrays.num_batches)
        self._pass = first_pass + passes
        self._order: tuple[int, Any] = (-1, None)

    @property
    def left(self) -> int:
        """Batches that are left of the current pass, at least one."""
        return self.arrays.num_batches - self.batch

    @property
    def order(self) -> tf.Tensor:
        """The order of the examples in the current pass."""
        if self._order[0] != self._pass:
            with tf.device("/CPU:0"):
                self._order = self._pass, tf.constant(self.arrays.order(self._pass), tf.int64)
        return self._order[1]

    def advance(self, batches: int) -> None:
        """Advances by some batches of the current pass; after its end the next pass begins."""
        self.batch += batches
        if not self.left:
            self._pass, self.batch = self._pass + 1, 0
