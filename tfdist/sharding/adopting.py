"""When is an optimizer taken apart, and when is it put together again?

When `fit` begins, before it looks for a checkpoint. An optimizer that has trained keeps its states.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.compat import optimizer_slices, tf_internals
from tfdist.compat.notes import set_note
from tfdist.sharding import allowed, shards


def adopt(model: keras.Model, strategy: tf.distribute.Strategy, *, is_wanted: bool) -> None:
    """Brings a model's optimizer to hold its states in parts, or whole.

    Every worker has to call it. One replica holds all states anyway.

    Args:
        model: The model, built; compiled if it is wanted.
        strategy: The strategy that it was made under.
        is_wanted: Whether the states are to be held in parts.

    Raises:
        ValueError: The model has weights that have to stay whole.
    """
    optimizer = getattr(model, "optimizer", None)
    sliced = shards.of(optimizer)
    is_wanted = is_wanted and strategy.num_replicas_in_sync > 1
    if optimizer is None or is_wanted == (sliced is not None):
        return
    if is_wanted:
        allowed.refuse_weights(model)
    before = _values(optimizer) if optimizer.built else None
    optimizer_slices.take_apart(optimizer, strategy)
    if is_wanted:
        set_note(optimizer, "shards", shards.Shards(model, strategy))
    else:
        set_note(optimizer, "shards", None)
        with strategy.scope():
            optimizer.build(model.trainable_variables)
    if before is not None:
        with tf_internals.default_replica_mode():
            for state, value in zip(shards.states_of(optimizer), before, strict=True):
                state.assign(value)


def averages_swapped(
    model: keras.Model, callbacks: Sequence[Any]
) -> contextlib.AbstractContextManager[None]:
    """Lets `SwapEMAWeights` swap weights with averages that are held in parts, in a block."""
    sliced = shards.of(getattr(model, "optimizer", None))
    if sliced is None:
        return contextlib.nullcontext()
    return optimizer_slices.swapping(callbacks, sliced.around)


def _values(optimizer: Any) -> list[Any]:
    return [state.numpy() for state in shards.states_of(optimizer)]
