"""How does a step see full shapes when batches are padded to one of a few lengths?

It has a branch for each length, each traced once. The graph chooses the branch, so a loop over many
batches stays one traced function, and all workers, which see the same global batches, take the same
branch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import tensorflow as tf

from tfdist.data.lengths import index_of, with_length
from tfdist.data.shapes import Followed, Lengths, Padding
from tfdist.global_batch.position import Timesteps
from tfdist.step.replicas import Batch


def padded(one_step: Callable[[Batch], Any], padding: Padding) -> Callable[[Batch], Any]:
    """Shows a step the shape that its batches are padded to, in a branch for each length.

    Args:
        one_step: Takes a global batch; runs in cross-replica context.
        padding: The shape of every batch.

    Returns:
        A step that takes batches as data/padding.py makes them.
    """
    lengths = padding.lengths
    if lengths is None:
        return lambda batch: one_step(dataclasses.replace(batch, padding=padding))

    def in_branch(batch: Batch) -> Any:
        own = batch.parts[0][1]
        branches = [
            lambda length=length: _result(one_step(_at_length(batch, padding, lengths, length)))
            for length in lengths.buckets
        ]
        return tf.switch_case(index_of(own, lengths), branches)

    return in_branch


def _result(value: Any) -> Any:
    return tf.constant(0) if value is None else value  # a branch has to give something


def _at_length(batch: Batch, padding: Padding, lengths: Lengths, length: int) -> Batch:
    parts = tuple(with_length(part, lengths, length) for part, _ in batch.parts)
    timesteps = None
    if lengths.target is not None:
        timesteps = Timesteps(length, batch.parts[0][1][lengths.target])
    return dataclasses.replace(batch, parts=parts, padding=padding, timesteps=timesteps)


def cut_back(outputs: Any, own: tf.Tensor, followed: Followed) -> Any:
    """Cuts outputs that are as long as an input back to the batch's own length.

    Args:
        outputs: The outputs for a padded batch.
        own: The original lengths of its open tensors.
        followed: Which dimension has which of these lengths.
    """

    def cut(output: Any, dims: tuple[int | None, ...]) -> Any:
        ends = [slice(None) if number is None else slice(own[number]) for number in dims]
        return output[tuple(ends)] if any(number is not None for number in dims) else output

    flat = zip(keras.tree.flatten(outputs), followed, strict=True)
    return keras.tree.pack_sequence_as(outputs, [cut(output, dims) for output, dims in flat])
