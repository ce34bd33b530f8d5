"""What does a client draw?  The same whoever trained before it, and the process goes on as before.

Synopsis:

    >>> import random, tensorflow as tf
    >>> strategy = tf.distribute.get_strategy()
    >>> def drawn(seed):
    ...     with seeded(seed, strategy):
    ...         return random.random()
    >>> drawn(b"a" * 32) == drawn(b"a" * 32), drawn(b"a" * 32) == drawn(b"b" * 32)
    (True, False)

TensorFlow's own seed is left alone: to set it forgets all compiled kernels, some 50 ms a client. So
a dataset that draws by itself needs a seed of its own.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from tfdist.checkpoint import rng_state
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, other_seed, tf_internals


@contextlib.contextmanager
def seeded(seed: bytes, strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Sets the generators of Python, NumPy and Keras within a `with` block.

    Args:
        seed: At least 16 bytes.
        strategy: What the model was made under.
    """
    workers = Workers(strategy)
    rng_state.settle(strategy)
    before = rng_state.take(workers)
    number = int.from_bytes(seed[:4], "little")
    try:
        random.seed(number)
        np.random.seed(number)
        state = keras_internals.global_seed_generator().state
        with tf_internals.default_replica_mode():
            state.assign(np.frombuffer(seed[8:16], np.uint32).astype(np.dtype(state.dtype)))
        with other_seed.with_random_seed(number >> 1):
            yield
    finally:
        rng_state.give(before, workers)
