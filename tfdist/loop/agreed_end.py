"""Does the data end at the same place on all workers?

Nobody knows beforehand how long a generator is, or what a filter leaves of a dataset. A worker
whose data ends before that of the others would leave them waiting in the next step for ever. So,
where the length is unknown and every worker reads the whole, each step begins with a small
all-gather of how many batches every worker has read: the first difference ends the run on all.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.communication import collectives


def numbers_of_replicas(strategy: tf.distribute.Strategy, number: tf.Tensor) -> tf.Tensor:
    """Returns the number that each replica's worker gives, int64 of shape `(num_replicas,)`.

    Args:
        strategy: The strategy; called in cross-replica context, by all workers together.
        number: This worker's, an int64 scalar.
    """

    everybody = collectives.gathered(strategy, lambda context: tf.reshape(number, []))
    return tf.ensure_shape(everybody, [strategy.num_replicas_in_sync])


def numbers_of(
    batch: Any, spec: Any, agree: Callable[[tf.Tensor], tf.Tensor] | None
) -> tf.Tensor:
    """Returns how many batches each replica's worker has read; 0 for one whose data has ended.

    Args:
        batch: What was fetched, an Optional.
        spec: Of the stream's elements, the fourth part of which numbers them from 1, where nobody
            knows how many there are.
        agree: Gives the numbers of all; see `numbers_of_replicas`.

    Returns:
        int64 of shape `(num_replicas,)`; of shape `(0,)` where there is nothing to agree on.
    """
    if agree is None or len(spec) < 4:
        return tf.zeros([0], tf.int64)
    has = batch.has_value()
    return agree(tf.cond(has, lambda: batch.get_value()[3], lambda: tf.zeros([], tf.int64)))


def goes_on(batch: Any, numbers: tf.Tensor) -> tf.Tensor:
    """Tells whether there is a batch on this worker, and on all that it has to agree with."""
    return batch.has_value() if numbers.shape[0] == 0 else tf.reduce_all(numbers > 0)


def refuse_other_ends(numbers: tf.Tensor) -> None:
    """Raises an error where the data of some workers has ended, and that of others goes on.

    Args:
        numbers: What `numbers_of` returned.

    Raises:
        RuntimeError: They differ; the text names the replicas.
    """
    found = numbers.numpy()
    ended, others = (np.flatnonzero(is_so).tolist() for is_so in (found == 0, found > 0))
    if not ended or not others:
        return
    raise RuntimeError(
        f"The data ended after {found.max() - 1} batches for the replicas {ended}, and went on for "
        f"the replicas {others}, so the workers do not read the same. Give every worker the same "
        "data, or each only its own share with already_sharded=True."
    )
