"""How do the replicas' gradients become the sums that an optimizer of parts needs?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from tfdist.communication import reduction as reduction_lib
from tfdist.communication.compression import Reduction
from tfdist.sharding.stand_in import Parting, StandIn


def summed(
    items: Sequence[StandIn],
    gradients: Sequence[Any],
    parting: Parting,
    strategy: tf.distribute.Strategy,
    reduction: Reduction,
) -> list[Any]:
    """Returns for each weight the sums for its parts; None where it has no gradient.

    Args:
        items: All weights that the optimizer updates.
        gradients: Of each, as `reduction.sum_gradients` takes them.
        parting: How weights are parted.
        strategy: The strategy of the weights.
        reduction: How gradients travel.

    Raises:
        ValueError: A gradient that is to be parted is rows of a table.
    """
    sums: list[Any] = [None] * len(items)
    present = [i for i, gradient in enumerate(gradients) if gradient is not None]
    whole = [i for i in present if items[i].is_whole]
    parted = [i for i in present if not items[i].is_whole]
    for i in parted:
        first = strategy.experimental_local_results(gradients[i])[0]
        if not isinstance(first, tf.Tensor):
            raise ValueError(
                f"The gradient of {items[i].weight.path!r} is rows of a table that is not one of a "
                "keras.layers.Embedding, and rows cannot be parted. Use that layer, or leave "
                "sharded_optimizer out."
            )
    of_whole = reduction_lib.sum_gradients(strategy, [gradients[i] for i in whole], reduction)
    for i, total in zip(whole, of_whole, strict=True):
        sums[i] = [total]
    known = [_of_known_shape(gradients[i], items[i].weight, strategy) for i in parted]
    of_parted = parting.summed([items[i] for i in parted], known, reduction)
    for i, parts in zip(parted, of_parted, strict=True):
        sums[i] = parts
    return sums


def _of_known_shape(gradient: Any, weight: Any, strategy: tf.distribute.Strategy) -> Any:
    """Returns a gradient whose shape is known, which a trace need not see."""
    local = strategy.experimental_local_results(gradient)
    if local[0].shape.is_fully_defined():
        return gradient
    parts = []
    for part in local:
        with tf.device(part.device):
            parts.append(tf.ensure_shape(part, weight.shape))
    return reduction_lib.per_replica(strategy, parts)
