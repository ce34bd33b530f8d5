"""How do gradients travel to the replica that updates a whole variable, and its new values back?

Each variable has one owner, and owners have about as many bytes:

>>> deal([5, 3, 3, 1], 2)
[0, 1, 1, 0]

What an owner is sent is a stream of the numbers of its variables, the largest first, cut into
blocks. Message k has block k of each owner's stream, as long as the longest of them:

>>> messages([2, 2, 3], [0, 1, 1], 2, block=4)
[[[(0, 0, 2)], [(2, 0, 3), (1, 0, 1)]], [[], [(1, 1, 2)]]]

Workers on CPUs send each other these blocks, all to all, and each adds up what has come, in the
order of the workers; new values are gathered. Where the owners have the same, both together are as
many bytes as one sum of whole gradients. Replicas of one process, and other workers, sum whole
gradients as ever.
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
from tfdist.communication.slices import BLOCK

Message = list[list[tuple[int, int, int]]]  # for each owner: tensor, first number, end


def deal(sizes: Sequence[int], owners: int) -> list[int]:
    """Returns an owner for each size: the largest first, each to the one that has least."""
    held, found = [0] * owners, [0] * len(sizes)
    for index in _largest_first(sizes):
        found[index] = min(range(owners), key=lambda owner: (held[owner], owner))
        held[found[index]] += sizes[index]
    return found


def messages(
    sizes: Sequence[int], owner_of: Sequence[int], owners: int, *, block: int = BLOCK
) -> list[Message]:
    """Says which numbers of which tensors are in each message, for each owner.

    Args:
        sizes: The numbers of each tensor.
        owner_of: The owner of each tensor.
        owners: How many owners there are.
        block: The most numbers for one owner in a message.
    """
    found: list[Message] = []
    for owner in range(owners):
        at = 0
        for index in (i for i in _largest_first(sizes) if owner_of[i] == owner):
            start = 0
            while start < sizes[index]:
                number, used = divmod(at, block)
                if number == len(found):
                    found.append([[] for _ in range(owners)])
                stop = min(sizes[index], start + block - used)
                found[number][owner].append((index, start, stop))
                at, start = at + stop - start, stop
    return found


def _largest_first(sizes: Sequence[int]) -> list[int]:
    return sorted(range(len(sizes)), key=lambda index: (-sizes[index], index))


class Owners:
    """How whole variables travel between the replicas of a strategy; in a step that is traced.

    Args:
        strategy: Replicas of one process, or workers of one replica each.

    Attributes:
        replicas: The numbers of this worker's.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy, self._exchange = strategy, Exchange(strategy)
        self.replicas = self._exchange.share.replicas

    def summed(
        self, gradients: Sequence[Any], owner_of: Sequence[int], reduction: Reduction = EXACT
    ) -> list[tf.Tensor]:
        """Sums dense gradients over all replicas.

        Args:
            gradients: Per-replica tensors, in cross-replica context.
            owner_of: The owner of each.
            reduction: How they travel.

        Returns:
            For each gradient the sum; what others own is empty, of the same rank.
        """
        if not self._exchange.is_direct:
            totals = reduction_lib.sum_gradients(self._strategy, gradients, reduction)
            pairs = zip(totals, owner_of, strict=True)
            return [self._on_owner(total, owner) for total, owner in pairs]
        found = [tf.zeros([0] * one.shape.rank, one.dtype) for one in gradients]
        for indices in _of_one_type(gradients):
            own = [gradients[i] for i in indices]
            totals = self._summed(own, [owner_of[i] for i in indices], reduction)
            for index, total in zip(indices, totals, strict=True):
                if total is not None:
                    found[index] = tf.reshape(total, gradients[index].shape)
        return found

    def spread(
        self, values: Sequence[tf.Tensor], shapes: Sequence[Any], owner_of: Sequence[int]
    ) -> list[tf.Tensor]:
        """Returns the values of all variables.

        Args:
            values: Of what this worker owns; what others own is not looked at, but for its type.
            shapes: Of all variables.
            owner_of: The owner of each.
        """
        if not self._exchange.share.has_others:
            return list(values)
        found = list(values)
        for indices in _of_one_type(values):
            sizes = [tf.TensorShape(shapes[i]).num_elements() for i in indices]
            flat = [tf.reshape(values[i], [-1]) for i in indices]
            parts: list[list[tf.Tensor]] = [[] for _ in indices]
            for message in self._messages(sizes, [owner_of[i] for i in indices]):
                own = message[self._exchange.share.first_replica]
                sent = _joined([(own, flat)], _longest(message))
                every = self._exchange.from_all(sent)
                for owner, chunks in enumerate(message):
                    _take(chunks, every[owner], parts)
            for index, blocks in zip(indices, parts, strict=True):
                found[index] = tf.reshape(_end_to_end(blocks), shapes[index])
        return found

    def _summed(
        self, gradients: Sequence[Any], owner_of: Sequence[int], reduction: Reduction
    ) -> list[Any]:
        """Returns the flat sums of what this worker owns, of one type; None for the others."""
        dtype = gradients[0].dtype
        flat = [tf.reshape(one, [-1]) for one in gradients]
        if reduction.narrows(dtype):
            flat = [compression.narrow(one, str(reduction.wire_dtype)) for one in flat]
        parts: list[list[tf.Tensor]] = [[] for _ in gradients]
        for message in self._messages([one.shape[0] for one in flat], owner_of):
            long = _longest(message)
            sent = _joined([(chunks, flat) for chunks in message], long)
            came = tf.unstack(self._exchange.to_each(tf.reshape(sent, [len(message), long])))
            # Widened before they are added, so that each contribution is rounded but once.
            total = functools.reduce(tf.add, [compression.widen(row, dtype) for row in came])
            _take(message[self._exchange.share.first_replica], total, parts)
        return [_end_to_end(blocks) if blocks else None for blocks in parts]

    def _messages(self, sizes: Sequence[int], owner_of: Sequence[int]) -> list[Message]:
        return messages(sizes, owner_of, self._exchange.share.num_replicas)

    def _on_owner(self, total: Any, owner: int) -> tf.Tensor:
        if owner not in self.replicas:
            return tf.zeros([0] * total.shape.rank, total.dtype)
        with tf.device(self._strategy.extended.worker_devices[owner - self.replicas.start]):
            return tf.identity(total)


def _of_one_type(tensors: Sequence[Any]) -> list[list[int]]:
    types = [tensor.dtype for tensor in tensors]
    return [[i for i, own in enumerate(types) if own == one] for one in dict.fromkeys(types)]


def _longest(message: Message) -> int:
    return max(sum(stop - start for _, start, stop in chunks) for chunks in message)


def _joined(
    rows: Sequence[tuple[Sequence[tuple[int, int, int]], Sequence[tf.Tensor]]], long: int
) -> tf.Tensor:
    """Returns the numbers of each row, with zeros behind them up to one length, as one vector."""
    blocks: list[tf.Tensor] = []
    for chunks, flat in rows:
        blocks += [flat[index][start:stop] for index, start, stop in chunks]
        if missing := long - sum(stop - start for _, start, stop in chunks):
            blocks.append(tf.zeros([missing], flat[0].dtype))
    return _end_to_end(blocks)


def _end_to_end(blocks: Sequence[tf.Tensor]) -> tf.Tensor:
    return blocks[0] if len(blocks) == 1 else tf.concat(blocks, 0)


def _take(
    chunks: Sequence[tuple[int, int, int]], row: tf.Tensor, parts: list[list[tf.Tensor]]
) -> None:
    """Adds the numbers of a row to the parts of the tensors that they are of."""
    at = 0
    for index, start, stop in chunks:
        parts[index].append(row[at : at + stop - start])
        at += stop - start
