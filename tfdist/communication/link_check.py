"""Do the links between the replicas transfer data unchanged?  A short exchange of known content.

Copies between consumer GPUs have been seen to change data silently. So before the first step, if
replicas do not share one memory, each sends a vector that the others can compute: multiples of a
power of two per replica, so that every sum is exact.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from tfdist.communication.share import Share
from tfdist.communication.workers import Workers
from tfdist.compat import tf_internals
from tfdist.compat.notes import note_of, set_note

_LENGTH = 2**16  # 256 KiB per replica: some links fail only in longer copies
_POWERS, _FACTORS = 16, 7  # up to 256 replicas, all sums are below 2**24, and so exact in float32


def check_links(workers: Workers) -> None:
    """Checks the links of a strategy, once. Every worker has to call it.

    Raises:
        RuntimeError: Data arrived changed; the message names the replicas.
    """
    strategy, share = workers.strategy, workers.share
    if note_of(strategy, "has_checked_links") or not _has_links(strategy, share):
        return
    sums, rows = exchanged(strategy)
    if found := faults(sums, rows, first_replica=share.first_replica):
        raise RuntimeError(
            f"The links between the replicas change data: {'; '.join(found)}. Look for a faulty "
            "device or cable; on GPUs, NCCL_P2P_DISABLE=1 keeps copies off the direct links."
        )
    set_note(strategy, "has_checked_links", True)


def contribution(replica: int, length: int = _LENGTH) -> np.ndarray:
    """Returns the vector that a replica sends, float32 of shape `(length,)`.

    >>> contribution(2, 9).tolist()
    [4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 28.0, 4.0, 8.0]
    """
    factors = 1 + np.arange(length) % _FACTORS
    return (factors * 2.0 ** (replica % _POWERS)).astype(np.float32)


def faults(sums: np.ndarray, rows: np.ndarray, *, first_replica: int) -> list[str]:
    """Describes what arrived changed; [] if everything is right.

    Args:
        sums: The sum over all replicas as it arrived at each of this worker's replicas.
        rows: The vectors of all replicas, in order, as they arrived at each of this worker's.
        first_replica: Number of this worker's first replica.
    """
    expected = np.stack([contribution(r, rows.shape[2]) for r in range(rows.shape[1])])
    found = []
    for number, (total, brought) in enumerate(zip(sums, rows, strict=True), start=first_replica):
        if count := int((total != expected.sum(axis=0)).sum()):
            found.append(f"of the sum, {count} of {len(total)} are wrong on replica {number}")
        for source in np.flatnonzero((brought != expected).any(axis=1)):
            count = int((brought[source] != expected[source]).sum())
            found.append(f"from replica {source} to {number}, {count} of {len(total)} are wrong")
    return found


def exchanged(strategy: tf.distribute.Strategy) -> tuple[np.ndarray, np.ndarray]:
    """Lets each replica of a strategy send its vector; every worker has to call it.

    Returns:
        The sum, and the vectors of all replicas, as they arrive at each of this worker's replicas:
        what `faults` looks at.
    """
    pattern = tf.constant(contribution(0))

    def on_replica() -> tuple[tf.Tensor, tf.Tensor]:
        context = tf.distribute.get_replica_context()
        replica = tf.cast(context.replica_id_in_sync_group % _POWERS, tf.float32)
        own = pattern * tf.round(2.0**replica)
        total = context.all_reduce(tf.distribute.ReduceOp.SUM, own)
        return total, context.all_gather(own[tf.newaxis], axis=0)

    @tf.function(autograph=False)
    def exchange() -> tuple[tf.Tensor, tf.Tensor]:
        per_replica = strategy.run(tf.autograph.experimental.do_not_convert(on_replica))
        local = [strategy.experimental_local_results(value) for value in per_replica]
        return tf.stack(local[0]), tf.stack(local[1])

    with tf_internals.default_replica_mode():
        sums, rows = exchange()
    return sums.numpy(), rows.numpy()


def _has_links(strategy: tf.distribute.Strategy, share: Share) -> bool:
    """Tells whether replicas have separate memories."""
    if share.num_replicas == 1:
        return False
    if share.has_others:
        return True
    return any("CPU" not in device for device in strategy.extended.worker_devices)
