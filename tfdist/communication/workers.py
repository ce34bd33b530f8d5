"""How do bytes travel between the workers?  As one sum of integers, which changes none of them.

Collectives are what all workers have in common, whatever network or folder they share otherwise.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfdist.communication.share import Share
from tfdist.compat import tf_internals

_WORDS_AT_A_TIME = 4 * 2**20  # 16 MiB: no tensor of a model's size beside the model


class Exchange:
    """Lets the workers of a strategy hand bytes to each other.

    Args:
        strategy: The strategy that the workers share. Every worker has to make the same calls in
            the same order.
        share: Which replicas this worker has.
    """

    def __init__(self, strategy: tf.distribute.Strategy, share: Share) -> None:
        self.share = share

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int32)])
        def summed(words: tf.Tensor) -> tf.Tensor:
            def of_replica() -> tf.Tensor:
                context = tf.distribute.get_replica_context()
                # What a worker brings counts once, whatever number of replicas it has.
                is_first = tf.equal(context.replica_id_in_sync_group % share.local_replicas, 0)
                own = tf.where(is_first, words, tf.zeros_like(words))
                return context.all_reduce(tf.distribute.ReduceOp.SUM, own)

            total = strategy.run(tf.autograph.experimental.do_not_convert(of_replica))
            return strategy.experimental_local_results(total)[0]

        self._summed = summed

    @property
    def is_chief(self) -> bool:
        """Whether this worker is the first one."""
        return self.share.first_replica == 0

    @property
    def has_others(self) -> bool:
        """Whether there are other workers."""
        return self.share.has_others

    def from_chief(self, payload: bytes) -> bytes:
        """Returns the chief's `payload` on every worker; the others' is not looked at."""
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

    def _total(self, words: np.ndarray) -> np.ndarray:
        with tf_internals.default_replica_mode():
            return self._summed(tf.constant(words)).numpy()
