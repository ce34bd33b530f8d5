"""To which length is a batch padded if its examples differ in length?

This gives text static shapes: the user names a few lengths, `length_buckets`, and each batch is
padded to the next one, as `padded_batch` does, with zeros, empty texts or False. This file finds
the tensors of a batch to pad (those whose second dimension is open), and pads them in tf.data. The
step has a branch for each length (loop/branches.py), padded timesteps do not count
(global_batch/padded_timesteps.py), and padding_check.py tries whether a model can tell the padding.

A dataset marks a length by an open dimension. Arrays have none, so there the model decides: a
second dimension that its input leaves open is a length, and targets and weights have it if an
output has. So arrays are padded to the next length above theirs, and share the step that was traced
for that length.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdist.data.shapes import Lengths


def lengths_of(spec: Any, buckets: tuple[int, ...]) -> Lengths | None:
    """Returns which tensors of a batch have an open length; None if none of them has.

    Args:
        spec: Structure of tensor specs of one batch: `x`, `(x, y)` or `(x, y, sample_weight)`.
        buckets: The lengths to pad to, ascending; may be ().

    Raises:
        ValueError: A tensor has another open dimension, or there are no buckets.
    """
    leaves = keras.tree.flatten(spec)
    is_open = tuple(_is_open(leaf, buckets) for leaf in leaves)
    if not any(is_open):
        return None
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(spec)
    inputs = len(keras.tree.flatten(x))
    targets = 0 if y is None else len(keras.tree.flatten(y))
    open_inputs = sum(is_open[:inputs])
    if not open_inputs:
        raise ValueError(
            f"length_buckets pad inputs of varying length, but only targets have one: {spec!r}. "
            "Make the targets one length, or leave length_buckets out."
        )
    has_targets = any(is_open[inputs : inputs + targets])
    if has_targets:
        _refuse_unclear(y, sample_weight, buckets)
    return Lengths(buckets, is_open, open_inputs if has_targets else None)


def _is_open(leaf: Any, buckets: tuple[int, ...]) -> bool:
    if not isinstance(leaf, tf.TensorSpec):
        return False
    if leaf.shape.rank is None or not leaf.shape[2:].is_fully_defined():
        raise ValueError(
            f"Static shapes need examples of one shape, but that of a batch is {leaf.shape}. Only "
            "the second dimension may vary, with length_buckets=(...): pad the others to one size "
            "(.padded_batch(..., padded_shapes=...)), or pass static_shapes=False."
        )
    if leaf.shape.rank < 2 or leaf.shape[1] is not None:
        return False
    if not buckets:
        raise ValueError(
            f"Static shapes need examples of one shape, but that of a batch is {leaf.shape}. Give "
            "the lengths that batches are padded to, length_buckets=(32, 64, ...), or pad all "
            "examples to one (.padded_batch(..., padded_shapes=...)), or pass static_shapes=False."
        )
    return True


def _refuse_unclear(y: Any, sample_weight: Any, buckets: tuple[int, ...]) -> None:
    """Refuses targets and weights for which a step could not tell whether they have a length."""
    for leaf in keras.tree.flatten(y):
        if isinstance(leaf, tf.TensorSpec) and leaf.shape.rank > 1 and leaf.shape[1] in buckets:
            raise ValueError(
                f"Some targets have an open length, and others the shape {leaf.shape}, which is "
                f"also one of length_buckets={buckets}. Use another length instead."
            )
    for leaf in keras.tree.flatten(sample_weight):
        if isinstance(leaf, tf.TensorSpec) and leaf.shape.rank == 1:
            raise ValueError(
                "The targets have one value for each timestep, but sample_weight has one for "
                f"each example: shape {leaf.shape}. Give one weight for each timestep, of the "
                "shape of the targets."
            )


def to_bucket(parts: tuple[Any, ...], lengths: Lengths) -> tuple[Any, ...]:
    """Pads a worker's parts of one batch to the next length, in a dataset's `map`.

    Args:
        parts: One structure of tensors per replica, of the same lengths.
        lengths: Which of them are padded, and to what.

    Returns:
        For each part a pair: the padded structure, and the original lengths of its open tensors,
        int32 of shape `(open tensors,)`.

    Raises:
        tf.errors.InvalidArgumentError: When the dataset is read, where a batch is too long, or
            targets are not as long as inputs.
    """
    flat = keras.tree.flatten(parts[0])
    opened = [leaf for leaf, is_open in zip(flat, lengths.is_open, strict=True) if is_open]
    own = tf.stack([tf.shape(leaf)[1] for leaf in opened])
    longest, largest = tf.reduce_max(own), lengths.buckets[-1]
    checks = [
        tf.debugging.Assert(longest <= largest, [tf.strings.format(
            "A batch has {} timesteps, but the largest of length_buckets is " + f"{largest}. Give "
            "a larger one as well, or cut the examples to it.", longest)]),
        *_checked_targets(own, lengths),
    ]
    with tf.control_dependencies(checks):
        length = tf.gather(lengths.buckets, index_of(own, lengths))
        return tuple((_padded(part, lengths, length), own) for part in parts)


def index_of(own: tf.Tensor, lengths: Lengths) -> tf.Tensor:
    """Returns the number of the bucket that a batch with such lengths goes to: an int32 scalar."""
    longest = tf.reduce_max(own)
    return tf.reduce_sum(tf.cast(longest > tf.constant(lengths.buckets), tf.int32))


def _checked_targets(own: tf.Tensor, lengths: Lengths) -> list[Any]:
    """Checks that targets and their weights have the same length, which an input has too."""
    if lengths.target is None:
        return []
    inputs, targets = own[: lengths.target], own[lengths.target :]
    is_like = tf.reduce_all(targets == targets[0]) & tf.reduce_any(inputs == targets[0])
    return [tf.debugging.Assert(is_like, [tf.strings.format(
        "The targets of a batch are not as long as its inputs: {} where the inputs have {}. "
        "Give one target, and one weight, for each timestep of an input.", (targets, inputs))])]


def _padded(part: Any, lengths: Lengths, length: tf.Tensor) -> Any:
    flat = keras.tree.flatten(part)
    padded = [
        _padded_one(leaf, length) if is_open else leaf
        for leaf, is_open in zip(flat, lengths.is_open, strict=True)
    ]
    return keras.tree.pack_sequence_as(part, padded)


def _padded_one(value: tf.Tensor, length: tf.Tensor) -> tf.Tensor:
    more = [[0, 0], [0, length - tf.shape(value)[1]], *[[0, 0]] * (value.shape.rank - 2)]
    empty = tf.constant("") if value.dtype == tf.string else tf.zeros((), value.dtype)
    padded = tf.pad(value, more, constant_values=empty)
    # For arrays TensorFlow knows the length, but the loop is traced for all lengths.
    return tf.compat.v1.placeholder_with_default(padded, [value.shape[0], None, *value.shape[2:]])


def with_length(part: Any, lengths: Lengths, length: int) -> Any:
    """Sets the full shape of the open tensors of a structure that is padded to a length."""
    flat = keras.tree.flatten(part)
    shaped = [
        tf.ensure_shape(leaf, [leaf.shape[0], length, *leaf.shape[2:]]) if is_open else leaf
        for leaf, is_open in zip(flat, lengths.is_open, strict=True)
    ]
    return keras.tree.pack_sequence_as(part, shaped)


def opened(spec: Any, model: keras.Model) -> Any:
    """Returns the specs of a batch with lengths left open, as those of a dataset are.

    Args:
        spec: Structure of tensor specs: `x`, `(x, y)` or `(x, y, sample_weight)`.
        model: The model that gets the batch. If it does not show its inputs, as a subclass of
            `keras.Model` may not, the specs are returned unchanged.
    """
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(spec)
    inputs = list(getattr(model, "inputs", None) or []) if model.built else []
    if isinstance(x, dict) and {tensor.name for tensor in inputs} == set(x):
        named = {tensor.name: tensor for tensor in inputs}
        inputs = [named[name] for name in sorted(x)]  # the order in which a dict is flattened
    leaves = keras.tree.flatten(x)
    if len(inputs) != len(leaves):
        return spec
    are_lengths = [
        _is_fixed(leaf) and _varies(tensor) for leaf, tensor in zip(leaves, inputs, strict=True)
    ]
    lengths = {leaf.shape[1] for leaf, is_it in zip(leaves, are_lengths, strict=True) if is_it}
    outputs, targets = list(model.outputs), keras.tree.flatten(y)
    outputs = outputs if len(outputs) == len(targets) else [None] * len(targets)
    are_lengths += [
        _is_fixed(leaf) and leaf.shape[1] in lengths and _varies(tensor)
        for leaf, tensor in zip(targets, outputs, strict=True) if y is not None
    ]
    has_timesteps = any(are_lengths[len(leaves) :])
    are_lengths += [
        _is_fixed(leaf) and leaf.shape[1] in lengths and has_timesteps
        for leaf in keras.tree.flatten(sample_weight) if sample_weight is not None
    ]
    flat = keras.tree.flatten(spec)
    are_lengths += [False] * (len(flat) - len(are_lengths))
    found = [_open(leaf) if is_it else leaf for leaf, is_it in zip(flat, are_lengths, strict=True)]
    return keras.tree.pack_sequence_as(spec, found)


def _is_fixed(leaf: Any) -> bool:
    return isinstance(leaf, tf.TensorSpec) and leaf.shape.rank > 1 and leaf.shape[1] is not None


def _varies(tensor: Any) -> bool:
    return tensor is not None and len(tensor.shape) > 1 and tensor.shape[1] is None


def _open(leaf: tf.TensorSpec) -> tf.TensorSpec:
    return tf.TensorSpec([leaf.shape[0], None, *leaf.shape[2:]], leaf.dtype)
