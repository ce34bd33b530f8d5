"""In which order, and which together, do gradients travel between workers that have CPUs?

Each sum begins when its gradients are there, so those of the last layers travel while the first
layers still go backward. The strategy's own sums run one after the other, in the order of the
variables: none of them would begin before the gradient of the first layer.

Synopsis:

    >>> buckets([("float32", 12), ("float32", 900), ("int32", 4), ("float32", 8)], 100)
    [[2], [1], [3, 0]]
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from tfdist.communication.compression import Reduction
from tfdist.communication.exchange import Exchange


def buckets(tensors: Sequence[tuple[str, int | None]], bucket_bytes: int) -> list[list[int]]:
    """Returns which tensors travel together, by their numbers, in the order of their sums.

    The last come first, since a backward pass makes their gradients first. A bucket has the place
    of the first of its tensors, whose gradient is there last.

    Args:
        tensors: Of each its type, and its bytes; None if they are not known.
        bucket_bytes: Smaller tensors of one type are combined until they have this many bytes.
    """
    found: list[list[int]] = []
    open_ones: dict[str, tuple[list[int], int]] = {}
    for index in reversed(range(len(tensors))):
        dtype, size = tensors[index]
        if size is None or size >= bucket_bytes:
            found.append([index])
            continue
        bucket, filled = open_ones.get(dtype, ([], bucket_bytes))
        if filled + size > bucket_bytes:
            bucket, filled = [], 0
            found.append(bucket)
        bucket.append(index)
        open_ones[dtype] = bucket, filled + size
    return sorted(found, key=lambda bucket: -bucket[-1])


def sum_by_ring(
    exchange: Exchange, tensors: Sequence[tf.Tensor], reduction: Reduction
) -> list[tf.Tensor]:
    """Returns the sums of the workers' tensors.

    Args:
        exchange: Between workers that have one CPU each: it is direct.
        tensors: Of this worker; every worker gives the same shapes and types.
        reduction: The sizes of buckets and of pieces.
    """
    sizes = [_size(tensor) for tensor in tensors]
    sums = {index: tensors[index] for index, size in enumerate(sizes) if size == 0}
    sent = [index for index in range(len(tensors)) if index not in sums]
    kinds = [(tensors[index].dtype.name, sizes[index]) for index in sent]
    for bucket in buckets(kinds, int(reduction.bucket_bytes)):
        numbers = [sent[position] for position in bucket]
        parts = [tensors[number] for number in numbers]
        total = exchange.sum(_joined(parts), part_bytes=int(reduction.piece_bytes))
        sums |= zip(numbers, _split(total, parts), strict=True)
    return [sums[index] for index in range(len(tensors))]


def _size(tensor: tf.Tensor) -> int | None:
    length = tensor.shape.num_elements()
    return None if length is None else length * tensor.dtype.size


def _joined(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Returns one tensor as it is, and several as one flat tensor."""
    if len(parts) == 1:
        return parts[0]
    return tf.concat([tf.reshape(part, [-1]) for part in parts], 0)


def _split(total: tf.Tensor, parts: Sequence[tf.Tensor]) -> list[tf.Tensor]:
    if len(parts) == 1:
        return [total]
    lengths = [part.shape.num_elements() for part in parts]
    return [
        tf.reshape(one, part.shape)
        for one, part in zip(tf.split(total, lengths), parts, strict=True)
    ]
