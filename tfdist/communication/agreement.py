"""What do the workers have to agree on between two calls of the traced loop?

The seed, how many steps the next call runs, and whether to stop. On one worker there is nobody to
ask, and nothing here costs anything.
"""

from __future__ import annotations

import dataclasses
import secrets

import numpy as np
import tensorflow as tf

from tfdist.compat import keras_internals, tf_internals


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
