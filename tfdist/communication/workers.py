"""What do the workers tell each other between two calls of the loop?

They agree on the seed, on how many steps the next call runs, and on whether to stop; on one worker
there is nobody to ask, and nothing here costs anything. And they hand bytes to each other, as one
sum of integers, which changes none of them: collectives are what all workers have in common,
whatever network or folder they share otherwise.
"""

from __future__ import annotations

import dataclasses
import secrets

import numpy as np
import tensorflow as tf

from tfdist.communication.share import Share
from tfdist.compat import keras_internals, tf_internals

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


@dataclasses.dataclass(frozen=True)
class Boundary:
    """What all workers do after a call of the traced loop.

    Attributes:
        stop: Whether to stop.
        steps: Steps until the next event.
        is_due: Whether to save.
        leaves: Whether to save and leave.
        witnesses: What each replica's worker has read, see `same_data.Witness`.
    """

    stop: bool
    steps: int
    is_due: bool
    leaves: bool
    witnesses: np.ndarray


@dataclasses.dataclass(frozen=True)
class Calls:
    """How an epoch is cut into calls of the traced loop.

    Attributes:
        steps: Steps of the first call.
        event_steps: Steps that an event stands for, where a worker's callbacks fixed them; else
            None.
        is_watched: Whether somebody reads the logs of a batch event.
    """

    steps: int
    event_steps: int | None
    is_watched: bool


class Agreement:
    """Exchanges a few integers between the workers of a strategy.

    Args:
        strategy: The strategy that the workers share. Every worker has to make the same calls in
            the same order.
        has_others: Whether there are other workers.
    """

    def __init__(self, strategy: tf.distribute.Strategy, *, has_others: bool) -> None:
        self._has_others = has_others
        self._num_replicas = strategy.num_replicas_in_sync

        @tf.function(autograph=False, input_signature=[tf.TensorSpec([None], tf.int64)])
        def gathered(values: tf.Tensor) -> tf.Tensor:
            def row() -> tf.Tensor:
                context = tf.distribute.get_replica_context()
                return context.all_gather(values[tf.newaxis], axis=0)

            rows = strategy.run(tf.autograph.experimental.do_not_convert(row))
            return strategy.experimental_local_results(rows)[0]

        self._gathered = gathered

    @property
    def has_others(self) -> bool:
        """Whether there are other workers."""
        return self._has_others

    def gather(self, *values: int) -> np.ndarray:
        """Returns every replica's values, one row a replica in rank order, int64."""
        mine = np.asarray(values, np.int64)
        if not self._has_others:
            return mine[np.newaxis]
        if not values:  # TensorFlow 2.21 gathers no empty tensor: it ends the process by SIGSEGV
            return np.empty((self._num_replicas, 0), np.int64)
        with tf_internals.default_replica_mode():
            return self._gathered(tf.constant(mine)).numpy()

    def seed(self) -> int:
        """Returns the seed of `keras.utils.set_random_seed`, else one that the chief draws."""
        given = keras_internals.random_seed()
        drawn = secrets.randbelow(2**31) if given is None else int(given)
        return int(self.gather(drawn)[0, 0])

    def any(self, flag: bool) -> bool:
        """Returns whether `flag` is true on any worker."""
        return bool(self.gather(int(flag))[:, 0].any())

    def boundary(
        self,
        stop: bool,
        steps: int,
        witness: int = 0,
        *,
        is_due: bool = False,
        leaves: bool = False,
    ) -> Boundary:
        """Agrees on what comes after a call of the loop.

        Args:
            stop: Whether this worker wishes to stop; anyone's wish counts.
            steps: Steps that this worker wants until the next event; the smallest number counts.
            witness: What this worker has read, see `same_data.Witness`.
            is_due: Whether it is time to save, by this worker's clock; the chief's counts.
            leaves: Whether this worker was told to leave; if anyone was, all leave.

        Returns:
            The same on all workers.
        """
        if not self._has_others:
            return Boundary(stop, steps, is_due, leaves, np.array([witness], np.int64))
        rows = self.gather(int(stop), steps, witness, int(is_due), int(leaves))
        return Boundary(
            stop=bool(rows[:, 0].any()),
            steps=int(rows[:, 1].min()),
            is_due=bool(rows[0, 3]),
            leaves=bool(rows[:, 4].any()),
            witnesses=rows[:, 2],
        )

    def plan(self, *, steps: int, event_steps: int | None, is_watched: bool) -> Calls:
        """Agrees on how an epoch is cut into calls of the loop, whoever's callbacks want it.

        Args:
            steps: Steps of the first call; the smallest number counts.
            event_steps: Steps that this worker's callbacks fixed, or None.
            is_watched: Whether this worker's callbacks read the logs: reading is a collective, so
                all take part in it or nobody does.

        Returns:
            The same on all workers.
        """
        rows = self.gather(steps, event_steps or 0, int(is_watched))
        fixed = [int(wish) for wish in rows[:, 1] if wish]
        steps = min(fixed) if fixed else int(rows[:, 0].min())
        return Calls(steps, min(fixed, default=None), bool(rows[:, 2].any()))
