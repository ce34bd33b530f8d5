"""How do workers send each other the rows of a message, inside a step?

TensorFlow has all-to-all, in which row i goes to worker i, between CPUs alone as far as is known;
a gather, in which everybody gets what each has, is there for all. A sum of one tensor is here as
well, since strategies neither say in how many parts it travels nor let it begin by itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.share import share_of
from tfdist.compat import tf_internals

_GATHERED = (tf.float16, tf.float32, tf.float64, tf.int32, tf.int64)  # by TensorFlow's ring


class Exchange:
    """Messages between the workers of a strategy, which have one replica each.

    They begin in the order of the calls: so what is there first has to be sent first.

    Args:
        strategy: The strategy; used in a step that is traced.
        at_once: How many are under way at once. Each takes a thread, and several times its bytes
            of memory, of which who has parts of an optimizer has little: so one.

    Attributes:
        share: Which replicas this worker has.
        is_direct: Whether there are other workers, and all of them have CPUs: then rows can go from
            one to another.
    """

    def __init__(self, strategy: tf.distribute.Strategy, *, at_once: int = 1) -> None:
        self._at_once = at_once
        self._strategy, self.share = strategy, share_of(strategy)
        on_cpus = "CPU" in strategy.extended.worker_devices[0].upper()
        is_one_of_many = self.share.has_others and self.share.local_replicas == 1
        self._launcher = tf_internals.launcher_of(strategy) if is_one_of_many and on_cpus else None
        self.is_direct = self._launcher is not None
        self._before: list[tf.Tensor] = []  # what came of the messages that were traced last

    def sum(self, tensor: tf.Tensor, *, part_bytes: int) -> tf.Tensor:
        """Returns the sum of all workers' tensors, of one shape.

        It has to be direct, and the tensor must not be empty.

        Args:
            tensor: This worker's numbers.
            part_bytes: Size of the parts that a large tensor travels in, which overlap.
                TensorFlow's ring goes through them where they lie, and makes none smaller than
                4 MB.
        """
        length = tensor.shape.num_elements() or 1  # of an unknown shape: it travels as one part
        parts = math.ceil(length * tensor.dtype.size / self.share.num_replicas / part_bytes)
        return self._begun(
            tf.raw_ops.CollectiveReduceV2, tensor, merge_op="Add", final_op="Id",
            max_subdivs_per_device=parts,
        )

    def to_each(self, message: tf.Tensor) -> tf.Tensor:
        """Sends row i of a message to worker i; returns the rows that have come, by worker.

        It has to be direct, and no message may be empty: TensorFlow's collectives end the process.
        """
        return self._begun(tf.raw_ops.CollectiveAllToAllV2, message)

    def from_all(self, message: tf.Tensor) -> tf.Tensor:
        """Returns the flat messages of all workers, of one length, as the rows of a tensor."""
        if not self.is_direct:
            wide = message if message.dtype in _GATHERED else tf.cast(message, tf.float32)
            every = collectives.gathered(self._strategy, lambda context: wide)
            return tf.cast(every, message.dtype)
        if message.dtype not in _GATHERED:  # such as bfloat16
            return self.to_each(tf.tile(message[tf.newaxis], [self.share.num_replicas, 1]))
        came = self._begun(tf.raw_ops.CollectiveGatherV2, message)
        return tf.reshape(came, [self.share.num_replicas, -1])

    def _begun(self, operation: Callable[..., Any], value: tf.Tensor, **how: Any) -> tf.Tensor:
        """Returns what comes of a collective, which in a function begins when its value is there.

        TensorFlow would run those of a function one after the other, in the order of their tracing:
        one that has its value would wait for another that does not.
        """
        launcher = self._launcher
        if launcher is None:
            raise RuntimeError(
                "A message was sent where workers have no direct exchange. "
                "Use one only where `is_direct` holds."
            )
        if tf.executing_eagerly():
            with tf.device(launcher.device):
                return operation(input=value, **how, **launcher.keys())
        graph = tf.compat.v1.get_default_graph()
        before = [came for came in self._before if came.graph is graph]
        after = before[:1] if len(before) == self._at_once else []
        with tf.device(launcher.device), tf.control_dependencies(after):
            came = operation(input=value, **how, **launcher.keys())
        tf_internals.run_independently(came.op)
        self._before = [*before, came][-self._at_once :]
        return came
