"""Does the data end at the same place on all workers?

The length of a generator, or of a filtered dataset, is not known in advance. A worker whose data
ends early would leave the others waiting in the next step for ever. So if the length is unknown and
every worker reads all of the data, each step begins with a small all-gather of how many batches
every worker has read, and the first difference ends the run on all workers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.communication import collectives


def numbers_of_replicas(strategy: tf.distribute.Strategy, number: tf.Tensor) -> tf.Tensor:
    """Returns the number of each replica's worker, int64 of shape `(num_replicas,)`.

    Args:
        strategy: The strategy; called in cross-replica context, by all workers together.
        number: This worker's number, an int64 scalar.
    """

    everybody = collectives.gathered(strategy, lambda context: tf.reshape(number, []))
    return tf.ensure_shape(everybody, [strategy.num_replicas_in_sync])


def numbers_of(
    batch: Any, spec: Any, agree: Callable[[tf.Tensor], tf.Tensor] | None
) -> tf.Tensor:
    """Returns how many batches each replica's worker has read; 0 if its data has ended.

    Args:
        batch: The fetched batch, an Optional.
        spec: The spec of the stream's elements. If the length is unknown, their fourth part
            numbers them from 1.
        agree: Returns the numbers of all replicas; see `numbers_of_replicas`.

    Returns:
        int64 of shape `(num_replicas,)`; of shape `(0,)` if there is nothing to agree on.
    """
    if agree is None or len(spec) < 4:
        return tf.zeros([0], tf.int64)
    has = batch.has_value()
    return agree(tf.cond(has, lambda: batch.get_value()[3], lambda: tf.zeros([], tf.int64)))


def goes_on(batch: Any, numbers: tf.Tensor) -> tf.Tensor:
    """Tells whether this worker has a batch, and so have all that it has to agree with."""
    return batch.has_value() if numbers.shape[0] == 0 else tf.reduce_all(numbers > 0)


def refuse_other_ends(numbers: tf.Tensor) -> None:
    """Raises an error if the data of some workers has ended, and that of others goes on.

    Args:
        numbers: What `numbers_of` returned.

    Raises:
        RuntimeError: They differ; the message names the replicas.
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
