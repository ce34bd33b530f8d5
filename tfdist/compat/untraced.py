"""What must run outside the step that is being traced? Creating variables, and trials."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures
from typing import Any

import tensorflow as tf


def outside_of_steps(function: Callable[[], Any]) -> Any:
    """Calls a function as if no step were traced and no strategy in scope; returns its value.

    TensorFlow creates no variables inside a step, and a strategy's scope that is entered again
    under `default_replica_mode` counts twice. Both are states of the thread, so another one calls.
    """
    with futures.ThreadPoolExecutor(1) as thread:
        return thread.submit(function).result()


def plain_variable(
    dtype: tf.DType, *, value: int = 0, shape: Any = (), device: str = "CPU:0"
) -> tf.Variable:
    """Creates a variable that no strategy knows of: each worker has its own.

    Args:
        dtype: Its type.
        value: What it is filled with.
        shape: Its shape.
        device: Where it is.
    """

    def make() -> tf.Variable:
        with tf.device(device):
            return tf.Variable(tf.fill(shape, tf.cast(value, dtype)), trainable=False)

    return outside_of_steps(make)
