"""How does a replica ask for a sum, or for an update, in the middle of the function that it runs?

All replicas wait for each other there, and one does it for all; in one program, each does it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import reduction as reduction_lib
from tfdist.communication.compression import EXACT, Reduction
from tfdist.step import lookups, tpu_step, update


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    variables: Sequence[Any],
    *,
    reduction: Reduction = EXACT,
) -> None:
    """Calls `update` for all replicas, from inside the function that each of them runs."""
    gradients = lookups.separated(gradients)
    if tpu_step.is_here():
        if variables:
            update.build(tf.distribute.get_strategy(), optimizer, variables)
            tpu_step.update(optimizer, gradients, variables, reduction=reduction)
        return

    def in_cross_replica(strategy: tf.distribute.Strategy, whole: list[Any]) -> None:
        update.update(strategy, optimizer, whole, variables, reduction=reduction)

    _merged(in_cross_replica, gradients)


def sum_gradients(gradients: Sequence[Any], *, reduction: Reduction = EXACT) -> list[Any]:
    """Returns the sums over all replicas, from inside the function that each of them runs."""
    if tpu_step.is_here():
        return tpu_step.sum_on_replica(gradients, reduction)

    def in_cross_replica(strategy: tf.distribute.Strategy, whole: list[Any]) -> list[Any]:
        return reduction_lib.sum_gradients(strategy, whole, reduction)

    return list(_merged(in_cross_replica, gradients))


def apply_sums(optimizer: Any, sums: Sequence[Any], variables: Sequence[Any]) -> None:
    """Applies sums that all replicas have alike, once, from inside what each of them runs."""
    if not variables:
        return
    if tpu_step.is_here():
        update.build(tf.distribute.get_strategy(), optimizer, variables)
        tpu_step.apply_sums(optimizer, sums, variables)
        return

    def in_cross_replica(strategy: tf.distribute.Strategy, whole: list[Any]) -> None:
        update.build(strategy, optimizer, variables)
        first = [one if one is None else strategy.experimental_local_results(one)[0]
                 for one in whole]
        tpu_step.apply_sums(optimizer, first, variables)

    _merged(in_cross_replica, sums)


def _merged(in_cross_replica: Callable[..., Any], gradients: Sequence[Any]) -> Any:
    """Calls a function once for all replicas, with the strategy and the gradients of all of them.

    Args:
        in_cross_replica: Takes the strategy, and a list like `gradients` of values per replica.
        gradients: This replica's; TensorFlow takes no None, which stays None for the function.
    """

    def called(strategy: tf.distribute.Strategy, *per_replica: Any) -> Any:
        present = iter(per_replica)
        whole = [None if gradient is None else next(present) for gradient in gradients]
        return in_cross_replica(strategy, whole)

    present = tuple(gradient for gradient in gradients if gradient is not None)
    return tf.distribute.get_replica_context().merge_call(
        tf.autograph.experimental.do_not_convert(called), args=present
    )
