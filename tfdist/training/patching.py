"""How does a program of plain Keras become distributed, not one line of it changed?

Synopsis:

    >>> import keras, numpy as np, tfdist
    >>> strategy = tfdist.patch_keras("2xcpu")
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    >>> model.compile("adam", "mse")
    >>> history = model.fit(np.ones((5, 4)), np.ones(5), batch_size=3, verbose=0)
    >>> model.distribute_strategy.num_replicas_in_sync
    2
    >>> tfdist.unpatch_keras()

The strategy comes into scope for the whole process, so that models are made under it, and Keras's
`fit`, `evaluate`, `predict` and `*_on_batch` come to tfdist (routing.py).
"""

from __future__ import annotations

import contextlib

import tensorflow as tf

from tfdist.cluster.detection import Cluster
from tfdist.communication.share import share_of
from tfdist.strategy import factory, process_scope
from tfdist.training import saving
from tfdist.training.trainer import ROUTES

_patches = contextlib.ExitStack()


def patch_keras(
    device: str = "auto", *, cluster: Cluster | str | None = "auto"
) -> tf.distribute.Strategy:
    """Makes Keras's own `fit`, `evaluate`, `predict` and `*_on_batch` distributed.

    Call it before the program makes its first model. From then on models are made under the
    strategy that is returned, and these methods of everything that has them go through tfdist, also
    where a subclass or a library overrides them and calls `super()`, or a callback calls them. They
    take tfdist's own options too, such as `checkpoint_dir`. A program that makes a strategy of its
    own keeps it; on several workers it gets this one in its place. There `save`, `save_weights`
    and `export` write on the chief alone, and the others wait for it.

    A second call with the same arguments changes nothing; with others it replaces the strategy.

    Args:
        device: As in `tfdist.get_strategy`.
        cluster: As in `tfdist.get_strategy`.

    Returns:
        The strategy.

    Raises:
        ValueError: The device or cluster is invalid, or the environment contradicts itself.
        RuntimeError: The device is not there, TensorFlow has started too early, or the call stands
            inside of `with strategy.scope():`.
    """
    strategy = factory.get_strategy(device, cluster=cluster)
    if process_scope.current() is strategy:
        return strategy
    unpatch_keras()
    process_scope.enter(strategy, has_others=share_of(strategy).has_others)
    ROUTES.is_for_all = True
    _patches.enter_context(ROUTES.on())
    _patches.enter_context(saving.on_chief_alone())
    return strategy


def unpatch_keras() -> None:
    """Takes `patch_keras` back: Keras's own methods are in their place again.

    Models stay under the strategy that they were made under. Without an earlier `patch_keras`
    nothing happens.
    """
    process_scope.leave()
    ROUTES.is_for_all = False
    _patches.close()
