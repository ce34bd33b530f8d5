"""How are rows counted and cut, of dense, ragged and sparse tensors alike?"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.share import bounds

# For functions without Python control flow: AutoGraph leaves them alone, and does not warn.
unconverted = tf.autograph.experimental.do_not_convert


def count(data: Any) -> tf.Tensor:
    """Returns the rows of the first tensor in a structure, as an int32 scalar."""
    return _count_one(next(leaf for leaf in keras.tree.flatten(data) if leaf is not None))


def _count_one(value: Any) -> tf.Tensor:
    if isinstance(value, tf.RaggedTensor):
        return tf.cast(value.nrows(), tf.int32)
    shape = value.dense_shape if isinstance(value, tf.SparseTensor) else tf.shape(value)
    return tf.cast(shape[0], tf.int32)


def count_alike(data: Any) -> tf.Tensor:
    """Returns the rows of a batch that will be split, which every tensor of it must have.

    Args:
        data: A structure of tensors, in a dataset's `map`; None is no tensor.

    Returns:
        Int32 scalar.

    Raises:
        tf.errors.InvalidArgumentError: When the dataset is read, where the tensors of a batch have
            different numbers of rows.
    """
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    known = {leaf.shape[0] for leaf in leaves}
    first = _count_one(leaves[0])
    if len(known) == 1 and (len(leaves) == 1 or None not in known):
        return first
    counts = tf.stack([_count_one(leaf) for leaf in leaves])
    check = tf.debugging.Assert(
        tf.reduce_all(counts == first), [f"{_UNLIKE_ROWS}:", counts], summarize=len(leaves)
    )
    with tf.control_dependencies([check]):
        return tf.identity(first)


def refuse_unlike(spec: Any) -> None:
    """Raises a ValueError where the specs of a batch show different numbers of rows."""
    kinds = (tf.TensorSpec, tf.RaggedTensorSpec, tf.SparseTensorSpec)
    leaves = [leaf for leaf in keras.tree.flatten(spec) if isinstance(leaf, kinds)]
    counts = [leaf.shape[0] for leaf in leaves if leaf.shape.rank]
    if len({number for number in counts if number is not None}) > 1:
        shown = " ".join("?" if number is None else str(number) for number in counts)
        raise ValueError(unlike_rows(shown))


_UNLIKE_ROWS = "The tensors of a batch have different numbers of rows"


def unlike_rows(counts: str) -> str:
    """Returns the sentence about a batch whose tensors have these numbers of rows."""
    return (
        f"{_UNLIKE_ROWS}, {counts}, so that replicas cannot take their rows of it. Give every "
        "tensor one row for each example (batch all datasets alike, and pad what belongs to one "
        "example into its row), or train on one device."
    )


def cut(data: Any, start: Any, stop: Any) -> Any:
    """Returns rows `start` to `stop` of every tensor in a structure; None stays None."""

    def cut_one(value: Any) -> Any:
        if not isinstance(value, tf.SparseTensor):
            return value[start:stop]
        rest = value.dense_shape[1:]
        begin = tf.concat([[tf.cast(start, tf.int64)], tf.zeros_like(rest)], 0)
        size = tf.concat([[tf.cast(stop - start, tf.int64)], rest], 0)
        part = tf.sparse.slice(value, begin, size)
        part.set_shape([None, *value.shape[1:]])  # a layer may be built by it
        return part

    return keras.tree.map_structure(cut_one, data, none_is_leaf=False)


def take(data: Any, places: Any) -> Any:
    """Returns the rows at some places of every tensor in a structure; None stays None."""

    def take_one(value: Any) -> Any:
        if not isinstance(value, tf.SparseTensor):
            return tf.gather(value, places)
        return tf.sparse.concat(0, [cut(value, place, place + 1) for place in places])

    return keras.tree.map_structure(take_one, data, none_is_leaf=False)


def never_empty(start: Any, stop: Any, size: Any) -> tuple[Any, Any]:
    """Widens an empty range of rows to one of the `size` rows.

    A model may fail on a batch without rows (the mean of nothing is NaN, and so is 0 * NaN). So an
    empty replica computes on a real row, which the step leaves out of every count.
    """
    start = tf.minimum(start, size - 1)
    return start, tf.maximum(stop, start + 1)


def computed_bounds(size: Any, replica: Any, num_replicas: int) -> tuple[Any, Any]:
    """Returns the rows of a global batch that a replica computes on: its own, or one that is not.

    Args:
        size: Rows in the global batch, an int32 scalar.
        replica: Number of the replica among those of all workers.
        num_replicas: Replicas of all workers together.
    """
    return never_empty(*bounds(size, replica, num_replicas), size)


def fixed(spec: Any) -> int | None:
    """Returns the number of rows in every batch of a structure of specs; None if it varies."""
    shapes = [leaf.shape for leaf in keras.tree.flatten(spec) if isinstance(leaf, tf.TensorSpec)]
    known = {shape[0] for shape in shapes if shape.rank}
    return known.pop() if len(known) == 1 else None


def fixed_in(data: Any) -> int | None:
    """Returns the number of rows of a structure of tensors if their shapes show it, else None."""
    shapes = [leaf.shape for leaf in keras.tree.flatten(data) if isinstance(leaf, tf.Tensor)]
    known = {shape[0] for shape in shapes if shape.rank}
    return known.pop() if len(known) == 1 else None


def opened(data: Any) -> Any:
    """Hides the number of rows in the shapes of a structure of tensors, while tracing."""

    def open_one(leaf: Any) -> Any:
        if not isinstance(leaf, tf.Tensor) or tf.executing_eagerly() or not leaf.shape.rank:
            return leaf
        if leaf.shape[0] is None:
            return leaf
        return tf.compat.v1.placeholder_with_default(leaf, [None, *leaf.shape[1:]])

    return keras.tree.map_structure(open_one, data)


def spec_of(data: Any) -> Any:
    """Returns the specs of a structure of tensors; None stays None."""
    return keras.tree.map_structure(tf.type_spec_from_value, data, none_is_leaf=False)


def open_spec(spec: Any) -> Any:
    """Returns the specs of a structure with an open number of rows: what models are built with."""

    def open_one(leaf: Any) -> Any:
        if _is_none(leaf):
            return None
        if not isinstance(leaf, tf.TensorSpec) or leaf.shape.rank is None:
            return leaf
        return tf.TensorSpec([None, *leaf.shape.as_list()[1:]], leaf.dtype)

    return keras.tree.map_structure(open_one, spec, none_is_leaf=False)


def blank(spec: Any) -> Any:
    """Returns one row of zeros or empty texts for every tensor spec in a structure."""

    def blank_one(leaf: Any) -> Any:
        if _is_none(leaf):
            return None
        if isinstance(leaf, tf.RaggedTensorSpec):
            empty = tf.RaggedTensor.from_row_lengths
            value: Any = tf.zeros([0, *_known(leaf.shape[leaf.ragged_rank + 1 :])], leaf.dtype)
            for _ in range(leaf.ragged_rank - 1):
                value = empty(value, tf.zeros([0], leaf.row_splits_dtype))
            return empty(value, tf.zeros([1], leaf.row_splits_dtype))
        dense = tf.zeros([1, *_known(leaf.shape[1:])], leaf.dtype)
        return tf.sparse.from_dense(dense) if isinstance(leaf, tf.SparseTensorSpec) else dense

    return keras.tree.map_structure(blank_one, spec, none_is_leaf=False)


def without_optionals(data: Any) -> Any:
    """Puts None where Keras's generators put an empty `tf.experimental.Optional` instead."""
    return keras.tree.map_structure(
        lambda leaf: None if isinstance(leaf, tf.experimental.Optional) else leaf, data
    )


def refuse_unbatched(spec: Any) -> None:
    """Raises a ValueError where the elements of a dataset are single examples."""
    ranks = [leaf.shape.rank for leaf in keras.tree.flatten(spec) if hasattr(leaf, "shape")]
    if 0 in ranks:
        raise ValueError(
            f"The dataset is not batched: its elements are {spec!r}. "
            "Call .batch(global_batch_size) on it before it is given to tfdist."
        )


def _is_none(spec: Any) -> bool:
    return type(spec).__name__ == "NoneTensorSpec"  # tf.data's, which has no public name


def _known(shape: Any) -> list[int]:
    return [1 if size is None else size for size in shape]
