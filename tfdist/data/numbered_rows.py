"""How is a stream made of rows that can be asked for by their numbers, each worker its own?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.communication.share import Share
from tfdist.compat import keras_internals
from tfdist.data import rows, same_data
from tfdist.data.arrays import own_rows
from tfdist.data.order import epoch_order
from tfdist.data.rows import unconverted
from tfdist.data.source import Source


@dataclasses.dataclass(frozen=True)
class NumberedRows:
    """Rows that a worker may ask for in any choice.

    Attributes:
        get_rows: Takes numbers of rows, int64, at least one; returns arrays with these rows: `x`,
            `(x, y)` or `(x, y, sample_weight)`.
        batch_size: Rows of a global batch.
        num_batches: Batches of a pass; None if it never ends.
        num_rows: Rows of a pass; None if it never ends.
        bounds: Returns the first row of a batch, and the one behind its last, int64.
        is_even: Whether every batch has `batch_size` rows.
        samples: Numbers of rows that are compared between the workers, and show all shapes.
        calls: How many batches are asked for at a time.
    """

    get_rows: Callable[[np.ndarray], Any]
    batch_size: int
    num_batches: int | None
    num_rows: int | None
    bounds: Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
    is_even: bool
    samples: np.ndarray
    calls: int


def rows_source(
    numbered: NumberedRows, *, share: Share, shuffle: bool | str, seed: int, class_weight: Any
) -> Source:
    """Makes the source of numbered rows; if `shuffle`, batches come in `epoch_order`."""
    steps, size = numbered.num_batches, numbered.batch_size
    some = [numbered.get_rows(np.array([number])) for number in numbered.samples.tolist()]
    weigh = None if class_weight is None else keras_internals.class_weight_map(class_weight)

    def numbers_of(batch: tf.Tensor) -> tf.Tensor:
        return tf.range(*numbered.bounds(batch))

    def batches_of(epoch: tf.Tensor, begin: tf.Tensor) -> tf.data.Dataset:
        if not shuffle or steps is None:
            batches = tf.data.Dataset.range(begin, steps or np.iinfo(np.int64).max)
            return batches.map(unconverted(numbers_of))
        order = tf.numpy_function(
            lambda number: epoch_order(steps, seed=seed, epoch=int(number)), [epoch], tf.int64
        )
        numbers = tf.ensure_shape(order, [steps])
        return tf.data.Dataset.from_tensor_slices(numbers[begin:]).map(unconverted(numbers_of))

    def rows_of(own: tf.Tensor) -> Any:
        found = taken(numbered.get_rows, some, own)
        return found if weigh is None else weigh(*found)

    stream = gathered(batches_of, rows_of, steps, share=share, calls=numbered.calls)
    facts = {"number of examples": numbered.num_rows, "batch size": size}
    return Source(
        steps, numbered.num_rows, rows.open_spec(stream(0, 0).element_spec[1][0]), stream,
        endless=steps is not None, is_infinite=steps is None, is_seekable=True,
        batch_size=lambda: size, makes_own_rows=True,
        is_even=numbered.is_even,
        identity=lambda: {**facts, **same_data.of_arrays(some)},
    )


def gathered(
    batches_of: Callable[[tf.Tensor, tf.Tensor], tf.data.Dataset],
    rows_of: Callable[[tf.Tensor], Any],
    steps: int | None,
    *,
    share: Share,
    calls: int = 2,
) -> Callable[[int, int], tf.data.Dataset]:
    """Returns the `stream` of a source whose rows are gathered by number.

    Args:
        batches_of: Returns the dataset of the numbers of each batch of a pass, from a batch on.
        rows_of: Returns the rows that have these numbers.
        steps: Batches of a pass; None if it never ends.
        share: Which replicas this worker feeds.
        calls: How many batches are gathered at a time.
    """

    def stream(first_pass: int, start: int) -> tf.data.Dataset:
        passes_on, start = divmod(start, steps) if steps else (0, start)
        first_pass += passes_on

        def batches(epoch: tf.Tensor) -> tf.data.Dataset:
            return batches_of(epoch, tf.where(epoch == first_pass, tf.cast(start, tf.int64), 0))

        def parts_of(indices: tf.Tensor) -> tuple[tf.Tensor, tuple[Any, ...]]:
            global_size = tf.size(indices)
            own = [
                own_rows(indices, global_size, replica, share.num_replicas)
                for replica in share.replicas
            ]
            return global_size, tuple(rows_of(numbers) for numbers in own)

        passes = tf.data.Dataset.range(first_pass, np.iinfo(np.int64).max)
        parts = passes.flat_map(unconverted(batches)).map(
            unconverted(parts_of), num_parallel_calls=calls if calls > 1 else None,
            deterministic=True if calls > 1 else None,
        )
        # Optimizing such a small pipeline takes longer than running it, and copies the arrays.
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False
        return parts.prefetch(tf.data.AUTOTUNE).with_options(options)

    return stream


def taken(get_rows: Callable[[np.ndarray], Any], like: list[Any], indices: tf.Tensor) -> Any:
    """Asks for rows in a traced function.

    Args:
        get_rows: As in `NumberedRows`.
        like: Some rows, which show the structure, dtypes and shapes of all.
        indices: Numbers of rows, int64.
    """
    flat = [list(map(np.asarray, tf.nest.flatten(one))) for one in like]
    dtypes = [leaf.dtype for leaf in flat[0]]

    def rows_of(numbers: np.ndarray) -> list[np.ndarray]:
        found = tf.nest.flatten(get_rows(numbers))
        # A text of NumPy has a length, to which a longer one would be cut.
        return [
            np.asarray(one, None if dtype.kind in "USO" else dtype)
            for one, dtype in zip(found, dtypes, strict=True)
        ]

    tensors = tf.numpy_function(rows_of, [indices], [tf.as_dtype(dtype) for dtype in dtypes])
    shapes = [_common(leaves) for leaves in zip(*flat, strict=True)]
    shaped = [tf.ensure_shape(one, shape) for one, shape in zip(tensors, shapes, strict=True)]
    return tf.nest.pack_sequence_as(like[0], shaped)


def _common(leaves: tuple[np.ndarray, ...]) -> list[int | None]:
    """Returns the shape of rows of which `leaves` are some, open where they differ."""
    sizes = zip(*(leaf.shape[1:] for leaf in leaves), strict=True)
    return [None, *(alike[0] if len(set(alike)) == 1 else None for alike in sizes)]
