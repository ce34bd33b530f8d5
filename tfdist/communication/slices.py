"""How do gradients and weights travel where each replica needs one slice of them alone?

A tensor's numbers, in their order, are pieces of N blocks, of which replica r has block r; zeros
fill up the last ones. Its slice is its block of each piece, one after the other:

>>> [piece.numpy().tolist() for piece in pieces(tf.range(5), 2)]
[[[0, 1, 2], [3, 4, 0]]]
>>> own_slice(tf.range(5), 1, 2).numpy().tolist()
[3, 4, 0]
>>> whole(pieces(tf.range(5), 2), [5]).numpy().tolist()
[0, 1, 2, 3, 4]

Workers on CPUs send each other the blocks of their gradients, all to all, and each adds up what has
come, in the order of the workers; new weights are gathered around the ring. Both together are as
many bytes as one sum of whole gradients. Replicas of one process, and other workers, sum whole
gradients as ever and keep their slice.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfdist.communication import compression
from tfdist.communication import reduction as reduction_lib
from tfdist.communication.compression import EXACT, Reduction
from tfdist.communication.exchange import Exchange
from tfdist.communication.ring import buckets

# Smaller blocks travel together until they have this many bytes, as packs of whole gradients do.
_PACK_BYTES = 2**20
#: The most numbers of a block: larger ones leave the processors idle while they travel.
BLOCK = 2**20


def lengths(size: int, parts: int) -> list[int]:
    """Returns the length of a block of each piece, of a tensor of `size` numbers."""
    full, rest = divmod(size, parts * BLOCK)
    return [BLOCK] * full + [-(-rest // parts)] * bool(rest)


def length(size: int, parts: int) -> int:
    """Returns the length of a slice, of a tensor of `size` numbers."""
    return sum(lengths(size, parts))


def pieces(tensor: Any, parts: int) -> list[tf.Tensor]:
    """Returns a tensor's pieces, each of shape `(parts, length of a block)`."""
    size, start, found = tensor.shape.num_elements(), 0, []
    flat = tf.reshape(tensor, [-1])
    for long in lengths(size, parts):
        found.append(tf.reshape(_filled(flat, start, parts * long), [parts, long]))
        start += parts * long
    return found


def own_slice(tensor: Any, replica: int, parts: int) -> tf.Tensor:
    """Returns one slice of a tensor, without a copy of the whole."""
    size, start, blocks = tensor.shape.num_elements(), 0, []
    flat = tf.reshape(tensor, [-1])
    for long in lengths(size, parts):
        blocks.append(_filled(flat, start + replica * long, long))
        start += parts * long
    return _packed(blocks, axis=0)


def whole(found: Sequence[Any], shape: Sequence[int]) -> tf.Tensor:
    """Returns the tensor of this shape that has these pieces."""
    size = tf.TensorShape(shape).num_elements()
    flat = _packed([tf.reshape(piece, [-1]) for piece in found], axis=0)
    return tf.reshape(flat if flat.shape[0] == size else flat[:size], shape)


def _filled(flat: Any, start: int, long: int) -> tf.Tensor:
    """Returns `long` numbers from `start` on, with zeros behind the last one."""
    held = flat[min(start, flat.shape[0]) : min(start + long, flat.shape[0])]
    missing = long - held.shape[0]
    return tf.pad(held, [[0, missing]]) if missing else held


class Slices:
    """How slices travel between the replicas of a strategy; used in a step that is traced.

    Args:
        strategy: Replicas of one process, or workers of one replica each.

    Attributes:
        parts: N, the replicas of all workers.
        replicas: The numbers of this worker's.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy, self._exchange = strategy, Exchange(strategy)
        self._share = self._exchange.share
        self.parts, self.replicas = self._share.num_replicas, self._share.replicas

    def summed(
        self, gradients: Sequence[Any], reduction: Reduction = EXACT
    ) -> list[list[tf.Tensor]]:
        """Sums dense gradients over all replicas.

        Args:
            gradients: Per-replica tensors, in cross-replica context.
            reduction: How they travel.

        Returns:
            For each gradient the slices of the sum of this worker's replicas.
        """
        if not self._exchange.is_direct:
            sums = reduction_lib.sum_gradients(self._strategy, gradients, reduction)
            return [[self._held(total, r) for r in self.replicas] for total in sums]
        cut = [pieces(gradient, self.parts) for gradient in gradients]
        own = [piece for of_one in cut for piece in of_one]
        types = [piece.dtype for piece in own]
        for index, piece in enumerate(own):
            if reduction.narrows(piece.dtype):
                own[index] = compression.narrow(piece, str(reduction.wire_dtype))
        found: dict[int, tf.Tensor] = {}
        for pack in _packs(own, types):
            came = tf.unstack(self._exchange.to_each(_packed([own[i] for i in pack], axis=1)))
            # Widened before they are added, so that each contribution is rounded but once.
            wide = [compression.widen(row, types[pack[0]]) for row in came]
            total = functools.reduce(tf.add, wide)
            found |= zip(pack, _unpacked(total, [own[i].shape[1] for i in pack], 0), strict=True)
        added = iter(found[index] for index in range(len(own)))
        return [[_packed([next(added) for _ in of_one], axis=0)] for of_one in cut]

    def gathered(
        self, slices: Sequence[Sequence[Any]], sizes: Sequence[int]
    ) -> list[list[tf.Tensor]]:
        """Returns the pieces of each variable, from all replicas' slices.

        Args:
            slices: For each variable the slices of this worker's replicas.
            sizes: The numbers of each variable.
        """
        long = [lengths(size, self.parts) for size in sizes]
        cut = [
            [list(_unpacked(one, of_one, 0)) for one in of_replicas]
            for of_replicas, of_one in zip(slices, long, strict=True)
        ]
        if not self._share.has_others:
            return [
                [self._stacked(blocks) for blocks in zip(*of_replicas, strict=True)]
                for of_replicas in cut
            ]
        own = [block for (of_one,) in cut for block in of_one]
        found: dict[int, tf.Tensor] = {}
        for pack in _packs(own, [block.dtype for block in own]):
            every = self._exchange.from_all(_packed([own[i] for i in pack], axis=0))
            found |= zip(pack, _unpacked(every, [own[i].shape[0] for i in pack], 1), strict=True)
        came = iter(found[index] for index in range(len(own)))
        return [[next(came) for _ in of_one] for (of_one,) in cut]

    def _held(self, total: Any, replica: int) -> tf.Tensor:
        devices = self._strategy.extended.worker_devices
        with tf.device(devices[replica - self._share.first_replica]):
            return own_slice(total, replica, self.parts)

    def _stacked(self, of_replicas: Sequence[Any]) -> tf.Tensor:
        with tf.device(self._strategy.extended.worker_devices[0]):
            return tf.stack([tf.convert_to_tensor(one) for one in of_replicas])


def _packs(tensors: Sequence[tf.Tensor], types: Sequence[tf.DType]) -> list[list[int]]:
    """Returns the numbers of the tensors that travel together, in the order of their messages."""
    pairs = zip(tensors, types, strict=True)
    sizes = [
        (dtype.name, (tensor.shape.num_elements() or 0) * tensor.dtype.size)
        for tensor, dtype in pairs
    ]
    return buckets(sizes, _PACK_BYTES)


def _packed(tensors: Sequence[tf.Tensor], *, axis: int) -> tf.Tensor:
    return tensors[0] if len(tensors) == 1 else tf.concat(tensors, axis)


def _unpacked(message: tf.Tensor, sizes: Sequence[int], axis: int) -> Sequence[tf.Tensor]:
    return [message] if len(sizes) == 1 else tf.split(message, sizes, axis)
