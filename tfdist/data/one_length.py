"""Which dimension of arrays, all of one length, is a length?

A dataset says so by an open dimension. Arrays have none, so that with `length_buckets` the model is
asked: a second dimension that its input leaves open is a length, and targets and weights have it
where an output does. So arrays are padded to the length above theirs, and a step that was traced
for that length serves them.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf


def opened(spec: Any, model: keras.Model) -> Any:
    """Returns the specs of a batch with lengths left open, as those of a dataset are.

    Args:
        spec: Structure of tensor specs: `x`, `(x, y)` or `(x, y, sample_weight)`.
        model: The model that is given it. One that does not show its inputs, as a subclass of
            `keras.Model` does not, leaves everything as it is.
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
        _is_fixed(leaf) and _is_open(tensor) for leaf, tensor in zip(leaves, inputs, strict=True)
    ]
    lengths = {leaf.shape[1] for leaf, is_it in zip(leaves, are_lengths, strict=True) if is_it}
    outputs, targets = list(model.outputs), keras.tree.flatten(y)
    outputs = outputs if len(outputs) == len(targets) else [None] * len(targets)
    are_lengths += [
        _is_fixed(leaf) and leaf.shape[1] in lengths and _is_open(tensor)
        for leaf, tensor in zip(targets, outputs, strict=True) if y is not None
    ]
    has_steps = any(are_lengths[len(leaves) :])
    are_lengths += [
        _is_fixed(leaf) and leaf.shape[1] in lengths and has_steps
        for leaf in keras.tree.flatten(sample_weight) if sample_weight is not None
    ]
    flat = keras.tree.flatten(spec)
    are_lengths += [False] * (len(flat) - len(are_lengths))
    found = [_open(leaf) if is_it else leaf for leaf, is_it in zip(flat, are_lengths, strict=True)]
    return keras.tree.pack_sequence_as(spec, found)


def _is_fixed(leaf: Any) -> bool:
    return isinstance(leaf, tf.TensorSpec) and leaf.shape.rank > 1 and leaf.shape[1] is not None


def _is_open(tensor: Any) -> bool:
    return tensor is not None and len(tensor.shape) > 1 and tensor.shape[1] is None


def _open(leaf: tf.TensorSpec) -> tf.TensorSpec:
    return tf.TensorSpec([leaf.shape[0], None, *leaf.shape[2:]], leaf.dtype)
