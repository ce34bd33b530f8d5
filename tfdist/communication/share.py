"""Which replicas are this worker's, and which rows of a batch are a replica's?

Only this file knows how a global batch is split. A replica's rows are contiguous, the rows of
replica 0 come first, and no two replicas differ by more than one row:

>>> [bounds(10, replica, 4) for replica in range(4)]
[(0, 3), (3, 5), (5, 8), (8, 10)]
>>> [bounds(1, replica, 2) for replica in range(2)]
[(0, 1), (1, 1)]
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:  # reading rows (parquet.py) needs no TensorFlow
    import tensorflow as tf

Int = TypeVar("Int")  # a Python int, or an integer scalar tensor


@dataclasses.dataclass(frozen=True)
class Share:
    """Which replicas, of those of all workers, a worker feeds.

    Attributes:
        first_replica: Number of this worker's first replica among all replicas.
        local_replicas: Replicas of this worker.
        num_replicas: Replicas of all workers together.
    """

    first_replica: int
    local_replicas: int
    num_replicas: int

    @property
    def replicas(self) -> range:
        """The numbers of this worker's replicas."""
        return range(self.first_replica, self.first_replica + self.local_replicas)

    @property
    def has_others(self) -> bool:
        """Whether there are other workers."""
        return self.local_replicas < self.num_replicas


def share_of(strategy: tf.distribute.Strategy) -> Share:
    """Returns the replicas that this process feeds."""
    import tensorflow as tf

    total = strategy.num_replicas_in_sync
    resolver = strategy.cluster_resolver
    if isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) and resolver is not None:
        spec = resolver.cluster_spec().as_dict()
        workers = sum(len(spec.get(task, ())) for task in ("chief", "worker")) or 1
        local = total // workers
        index = (resolver.task_id or 0) + (
            len(spec.get("chief", ())) if resolver.task_type == "worker" else 0
        )
        return Share(index * local, local, total)
    return Share(0, total, total)


def bounds(global_size: Int, replica: Any, num_replicas: int) -> tuple[Int, Int]:
    """Returns the rows of `replica` in a global batch as `(start, stop)`.

    Args:
        global_size: Rows in the global batch; an int or an integer scalar tensor.
        replica: Number of the replica among all replicas of all workers; int or tensor.
        num_replicas: Replicas of all workers together.

    Returns:
        `(start, stop)`, of the type of `global_size`. If a batch has fewer rows than there are
        replicas, the last replicas stay empty: `start == stop`.
    """
    return _start(global_size, replica, num_replicas), _start(
        global_size, replica + 1, num_replicas
    )


def _start(global_size: Any, replica: Any, num_replicas: int) -> Any:
    # The ceiling of replica * size / replicas: even, and it gives a lone row to replica 0.
    return (replica * global_size + num_replicas - 1) // num_replicas


def is_tpu(strategy: tf.distribute.Strategy) -> bool:
    """Tells whether the replicas of a strategy run one program, compiled by XLA for all of them."""
    import tensorflow as tf

    return isinstance(strategy, tf.distribute.TPUStrategy)
