"""Which workers are there, and what do they tell each other between two calls of the loop?

They exchange a few integers, and bytes as a sum of integers to which only one worker contributes.
Both use collectives, which all workers have in common, whatever network or folder they share. With
one worker there is nobody to ask, and nothing here costs anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.share import share_of
from tfdist.compat import tf_internals

_WORDS_AT_A_TIME = 4 * 2**20  # 16 MiB: no tensor of a model's size beside the model


class Workers:
    """The workers of a strategy, seen from one of them.

    Every worker has to make the same calls in the same order: each of them is a collective.

    Args:
        strategy: The strategy that the workers share.

    Attributes:
        strategy: The strategy that the workers share.
        share: Which replicas this worker has.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self.strategy = strategy
        self.share = share = share_of(strategy)

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int64)])
        def gathered(values: tf.Tensor) -> tf.Tensor:
            return collectives.gathered(strategy, lambda context: values)

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int32)])
        def summed(words: tf.Tensor) -> tf.Tensor:
            return collectives.sum_over_workers(strategy, share, words)

        self._gathered, self._summed = gathered, summed

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the first one."""
        return self.share.first_replica == 0

    @property
    def has_others(self) -> bool:
        """Whether there are other workers."""
        return self.share.has_others

    @property
    def rank(self) -> int:
        """The number of this worker."""
        return self.share.first_replica // self.share.local_replicas

    @property
    def count(self) -> int:
        """How many workers there are."""
        return self.share.num_replicas // self.share.local_replicas

    def gather(self, *values: int) -> np.ndarray:
        """Returns every worker's values, int64 of shape `(workers, values)`, in rank order."""
        mine = np.asarray(values, np.int64)
        if not self.has_others:
            return mine[np.newaxis]
        if not values:  # TensorFlow 2.21 gathers no empty tensor: it ends the process by SIGSEGV
            return np.empty((self.count, 0), np.int64)
        with tf_internals.default_replica_mode():
            of_replicas = self._gathered(tf.constant(mine)).numpy()
        return of_replicas[:: self.share.local_replicas]

    def any(self, flag: bool) -> bool:
        """Returns whether `flag` is true on any worker."""
        return bool(self.gather(int(flag)).any())

    def from_chief(self, payload: bytes) -> bytes:
        """Returns the chief's `payload` on every worker; those of the others are ignored."""
        if not self.has_others:
            return payload
        size = len(payload) if self.is_chief else 0
        high, low = self._total(np.array([size >> 24, size & 0xFFFFFF], np.int32))
        size = (int(high) << 24) + int(low)
        padded = np.zeros(-(-size // 4) * 4, np.uint8)
        if self.is_chief:
            padded[:size] = np.frombuffer(payload, np.uint8)
        words = padded.view(np.int32)
        pieces = [
            self._total(words[start : start + _WORDS_AT_A_TIME])
            for start in range(0, len(words), _WORDS_AT_A_TIME)
        ]
        return b"".join(piece.tobytes() for piece in pieces)[:size]

    def payloads(self, own: bytes) -> list[bytes]:
        """Returns every worker's bytes, in rank order, on every worker; they may differ in length.

        Args:
            own: This worker's.
        """
        lengths = self.gather(len(own))[:, 0]
        row = np.zeros(int(lengths.max()), np.uint8)
        row[: len(own)] = np.frombuffer(own, np.uint8)
        local = self.share.local_replicas
        every = self.rows(np.tile(row, (local, 1)))[::local]
        return [one[:length].tobytes() for one, length in zip(every, lengths, strict=True)]

    def rows(self, own: np.ndarray) -> np.ndarray:
        """Returns all replicas' rows of bytes, in their order, on every worker.

        Args:
            own: This worker's replicas' rows, uint8 of shape `(local_replicas, n)`; the same `n`
                on every worker.

        Returns:
            uint8 of shape `(num_replicas, n)`.
        """
        if not self.has_others:
            return own
        width = -(-own.shape[1] // 4) * 4
        every = np.zeros((self.share.num_replicas, width), np.uint8)
        every[self.share.replicas.start : self.share.replicas.stop, : own.shape[1]] = own
        total = self._total(every.reshape(-1).view(np.int32))
        return total.view(np.uint8).reshape(every.shape)[:, : own.shape[1]]

    def require_same(self, given: Mapping[str, Sequence[int]]) -> None:
        """Raises an error if the workers were given different arguments.

        Args:
            given: Maps the name of an argument, as used in the message, to numbers that stand for
                its value; as many on every worker.

        Raises:
            ValueError: The numbers differ; the message names the first argument that does.
        """
        names = [name for name, numbers in given.items() for _ in numbers]
        rows = self.gather(*(int(number) for numbers in given.values() for number in numbers))
        for name, column in zip(names, rows.T, strict=True):
            if (column != column[0]).any():
                raise ValueError(
                    f"{name} is not the same on all workers. Give every worker the same."
                )

    def _total(self, words: np.ndarray) -> np.ndarray:
        with tf_internals.default_replica_mode():
            return self._summed(tf.constant(words)).numpy()
