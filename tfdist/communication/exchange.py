"""How do workers send each other the rows of a message, inside a step?

TensorFlow has all-to-all, in which row i goes to worker i, between CPUs alone as far as is known;
a gather, in which everybody gets what each has, is there for all.
"""

from __future__ import annotations

import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.share import share_of
from tfdist.compat import tf_internals

_GATHERED = (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64)  # by TensorFlow's ring


class Exchange:
    """Messages between the workers of a strategy, which have one replica each.

    Args:
        strategy: The strategy; used in a step that is traced.

    Attributes:
        share: Which replicas this worker has.
        is_direct: Whether there are other workers, and all of them have CPUs: then rows can go from
            one to another.
    """

    def __init__(self, strategy: tf.distribute.Strategy) -> None:
        self._strategy, self.share = strategy, share_of(strategy)
        on_cpus = "CPU" in strategy.extended.worker_devices[0].upper()
        self.is_direct = self.share.has_others and self.share.local_replicas == 1 and on_cpus

    def to_each(self, message: tf.Tensor) -> tf.Tensor:
        """Sends row i of a message to worker i; returns the rows that have come, by worker.

        It has to be direct, and no message may be empty: TensorFlow's collectives end the process.
        """
        launcher = tf_internals.launcher_of(self._strategy)
        with tf.device(launcher.device):
            return tf.raw_ops.CollectiveAllToAllV2(input=message, **launcher.keys())

    def from_all(self, message: tf.Tensor) -> tf.Tensor:
        """Returns the flat messages of all workers, of one length, as the rows of a tensor."""
        if not self.is_direct:
            wide = message if message.dtype in _GATHERED else tf.cast(message, tf.float32)
            every = collectives.gathered(self._strategy, lambda context: wide)
            return tf.cast(every, message.dtype)
        if message.dtype not in _GATHERED:  # such as bfloat16
            return self.to_each(tf.tile(message[tf.newaxis], [self.share.num_replicas, 1]))
        launcher = tf_internals.launcher_of(self._strategy)
        with tf.device(launcher.device):
            came = tf.raw_ops.CollectiveGatherV2(input=message, **launcher.keys())
            return tf.reshape(came, [self.share.num_replicas, -1])
