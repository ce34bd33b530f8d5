"""Which workers are there, and what do they tell each other between two calls of the loop?

They exchange a few integers, and bytes as a sum of integers to which only one worker contributes.
Both use collectives, which all workers have in common, whatever network or folder they share. With
one worker there is nobody to ask, and nothing here costs anything.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfdist.cluster.places import Place, Whereabouts, parted_sentence
from tfdist.communication import collectives
from tfdist.communication.share import share_of
from tfdist.compat import tf_internals
from tfdist.compat.notes import note_of, set_note

_LONGEST_PLACE = 120  # bytes
_WORDS_AT_A_TIME = 4 * 2**20  # 16 MiB: no tensor of a model's size beside the model


class Exchanges:
    """The traced collectives of a strategy, the same for all of its models.

    Workers that do not do the same then meet in the same collectives, and find it out.

    Args:
        strategy: The strategy.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        share = share_of(strategy)

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int64)])
        def gathered(values: tf.Tensor) -> tf.Tensor:
            return collectives.gathered(strategy, lambda context: values)

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int32)])
        def summed(words: tf.Tensor) -> tf.Tensor:
            return collectives.sum_over_workers(strategy, share, words)

        self.gathered, self.summed = gathered, summed


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
        self.share = share_of(strategy)

    @property
    def whereabouts(self) -> Whereabouts:
        """Where this worker is, among what all workers of the strategy do together."""
        known = note_of(self.strategy, "whereabouts")
        if known is None:
            known = Whereabouts()
            set_note(self.strategy, "whereabouts", known)
        return known

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

    def gather(self, *values: int, what: str = "an agreement") -> np.ndarray:
        """Returns every worker's values, int64 of shape `(workers, values)`, in rank order.

        TensorFlow's collectives meet in the order in which they are called, whatever they are for.
        So the values travel behind a number that says what for.

        Args:
            *values: This worker's.
            what: What the workers do here, for messages.

        Raises:
            RuntimeError: The workers are at different places in their programs.
        """
        if not self.has_others:
            return np.asarray([values], np.int64)
        if not values:  # nothing to exchange
            return np.empty((self.count, 0), np.int64)
        place = self.whereabouts.come_to(what)
        mine = np.asarray([place.tag, *values], np.int64)
        with tf_internals.default_replica_mode():
            of_replicas = self._exchanges.gathered(tf.constant(mine)).numpy()
        of_workers = of_replicas[:: self.share.local_replicas]
        if (of_workers[:, 0] != place.tag).any():
            self._refuse_parted(place)
        return of_workers[:, 1:]

    def _refuse_parted(self, place: Place) -> None:
        """Raises a RuntimeError that says where each worker is; all of them have to call it."""
        text = place.doing.encode()[:_LONGEST_PLACE]
        places = {
            rank: Place(0, bytes(one).rstrip(b"\0").decode(errors="replace"))
            for rank, one in enumerate(self.row_of_each(text, length=_LONGEST_PLACE))
        }
        raise RuntimeError(parted_sentence(places))

    def any(self, flag: bool) -> bool:
        """Returns whether `flag` is true on any worker."""
        return bool(self.gather(int(flag)).any())

    def from_chief(self, payload: bytes) -> bytes:
        """Returns the chief's `payload` on every worker; those of the others are ignored."""
        if not self.has_others:
            return payload
        size = len(payload) if self.is_chief else 0
        high, low = self._total(np.array([size >> 24, size & 0xFFFFFF], np.int32))
        return self.from_worker(0, payload, size=(int(high) << 24) + int(low))

    def from_worker(self, rank: int, payload: bytes, *, size: int) -> bytes:
        """Returns one worker's `payload` on every worker; those of the others are ignored.

        Args:
            rank: The number of the worker.
            payload: This worker's.
            size: The bytes of what is sent, on all workers.
        """
        if not self.has_others:
            return payload
        padded = np.zeros(-(-size // 4) * 4, np.uint8)
        if self.rank == rank:
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
        every = self.row_of_each(own, length=int(lengths.max()))
        return [one[:length].tobytes() for one, length in zip(every, lengths, strict=True)]

    def row_of_each(self, own: bytes, *, length: int) -> np.ndarray:
        """Returns every worker's bytes, in rank order, on every worker.

        Args:
            own: This worker's, `length` of them at most.
            length: The same on all workers.

        Returns:
            uint8 of shape `(workers, length)`, with zeros behind what is shorter.
        """
        row = np.zeros(length, np.uint8)
        row[: len(own)] = np.frombuffer(own, np.uint8)
        local = self.share.local_replicas
        return self.rows(np.tile(row, (local, 1)))[::local]

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

    @property
    def _exchanges(self) -> Exchanges:
        """The traced functions of the strategy."""
        known = note_of(self.strategy, "exchanges")
        if known is None:
            known = Exchanges(self.strategy)
            set_note(self.strategy, "exchanges", known)
        return known

    def _total(self, words: np.ndarray) -> np.ndarray:
        self.whereabouts.come_to("an exchange")
        with tf_internals.default_replica_mode():
            return self._exchanges.summed(tf.constant(words)).numpy()
