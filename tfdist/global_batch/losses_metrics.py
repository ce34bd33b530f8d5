"""What do Keras's losses and metrics mean when a replica sees only its rows of the global batch?

A replica computes everything as if its rows were the whole batch, and its result then counts with
the weight `local_size / global_size`, its fraction. For a mean over examples, and for anything that
does not depend on them (a regularizer, a constant), the weighted results of all replicas add up to
exactly the result of one device. So Keras's own mean reductions are right as they are, once they
stop dividing by the number of replicas, and only three things depend on the other replicas:

* a sum over the batch (`reduction="sum"`) is divided by the replica's fraction, which the later
  weighting multiplies back;
* a denominator that is not the number of examples (valid timesteps of a mask, sum of the
  sample weights) is the one of the global batch;
* a scalar that reaches a `Mean` metric counts `local_size / global_size`, not once per replica.

`mean_of_rows` is a replica's contribution to the global loss. A loss or metric function that
returns one number for a batch gets the rows of all replicas: see whole_batch.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from keras import ops

from tfdist.compat import replacing
from tfdist.global_batch import padded_rows, padded_timesteps, whole_batch
from tfdist.global_batch import position as position_lib


def global_reductions() -> dict[str, Callable[..., Any]]:
    """Returns replacements for the reductions of Keras's losses and metrics.

    Outside of a step, where no replica has a position, each calls the original.
    """
    original = replacing.original
    scale, unscale = "scale_loss_for_distribution", "unscale_loss_for_distribution"
    samplewise = "reduce_to_samplewise_values"
    return {
        scale: functools.partial(_not_in_a_step, original(scale)),
        unscale: functools.partial(_not_in_a_step, original(unscale)),
        "reduce_values": functools.partial(_reduce_rows, original("reduce_values")),
        "apply_mask": functools.partial(_apply_mask, original("apply_mask")),
        samplewise: functools.partial(_samplewise_values, original(samplewise)),
        **whole_batch.functions(),
    }


def _not_in_a_step(original: Callable[[Any], Any], value: Any) -> Any:
    return original(value) if position_lib.current() is None else value


def _reduce_rows(
    original: Callable[..., Any],
    values: Any,
    sample_weight: Any = None,
    reduction: str | None = "sum_over_batch_size",
) -> Any:
    """Reduces the values of a replica's rows; sums and weights are those of the global batch."""
    position = position_lib.current()
    weighted = reduction == "mean_with_sample_weight" and sample_weight is not None
    reduced = tuple(values.shape) == () or reduction in (None, "none")
    values, sample_weight = (padded_rows.zeroed(v) for v in (values, sample_weight))
    if position is None or reduced or not (weighted or reduction == "sum"):
        value = original(values, sample_weight, reduction)
        return value if reduced else padded_rows.mean_of_counted(value)
    total = sum_of_rows(ops.sum(values))
    if reduction == "sum":
        return total
    weight = ops.cast(ops.sum(sample_weight), total.dtype)
    divisor = position.collectives.sum(_of_counted_rows(weight, position))
    return ops.divide_no_nan(total, divisor)


def _apply_mask(
    original: Callable[..., Any], sample_weight: Any, mask: Any, dtype: Any, reduction: str | None
) -> Any:
    """Turns a mask into a sample weight, with the counts of the global batch."""
    position = position_lib.current()
    if position is None or mask is None or reduction not in ("mean", "sum_over_batch_size"):
        return original(sample_weight, mask, dtype=dtype, reduction=reduction)
    # Keras weights a valid timestep by total / valid, so that a mean over all timesteps becomes one
    # over the valid ones. Here both counts are those of the global batch.
    mask = padded_rows.zeroed(ops.cast(mask, dtype))
    valid = position.collectives.sum(_of_counted_rows(ops.sum(mask), position))
    size = padded_rows.size_of_counted(ops.cast(ops.size(mask), dtype))
    total = size / _safe(position.fraction(dtype))
    weight = ops.divide_no_nan(total, valid) * mask
    # Keras merges it with the given sample weight as it merges two sample weights.
    if sample_weight is None:
        return weight
    return original(sample_weight, weight, dtype=dtype, reduction="sum")


def _samplewise_values(
    original: Callable[..., Any], values: Any, sample_weight: Any, reduce_fn: Any, dtype: Any
) -> Any:
    """Returns the values that a metric counts, and their weights, for a replica's rows."""
    position = position_lib.current()
    values = whole_batch.value_of_metric(values)
    sample_weight = padded_rows.without_static_count(values, sample_weight)
    is_mean_over_time = padded_timesteps.takes_mean(values, reduce_fn)
    values, sample_weight = original(values, sample_weight, reduce_fn, dtype)
    if is_mean_over_time:
        values = padded_timesteps.of_own_length(values)
        sample_weight = padded_timesteps.of_own_length(sample_weight)
    if len(values.shape) > 0:
        return padded_rows.of_counted(values, sample_weight)
    if position is None or sample_weight is not None:
        return values, sample_weight
    fraction = position.fraction(values.dtype)
    return _of_counted_rows(values, position) * fraction, fraction


def sum_of_rows(value: Any) -> Any:
    """Divides a replica's sum by its fraction, which the later weighting multiplies back.

    Args:
        value: A scalar that grows with the rows.

    Returns:
        A scalar of the same dtype; `value` itself outside of a step.
    """
    position = position_lib.current()
    return value if position is None else value / _safe(position.fraction(value.dtype))


def _safe(fraction: Any) -> Any:
    # An empty replica has the fraction 0, and whatever is divided by it does not count.
    return tf.where(fraction > 0, fraction, tf.ones_like(fraction))


def _of_counted_rows(value: Any, position: position_lib.Position) -> Any:
    # An empty replica computes on a row that does not count, or on no row: that may give NaN, and
    # 0 * NaN is NaN.
    return tf.where(position.local_size > 0, value, tf.zeros_like(value))


def mean_of_rows(loss: Any) -> Any:
    """Weighs a replica's loss by its rows, so that those of all replicas sum to the global one.

    Args:
        loss: What `compute_loss` gave for this replica's rows: a scalar mean, or, where a
            reduction of `None` left it so, one value a row.

    Returns:
        This replica's share of the global loss, of the shape and dtype of `loss`.
    """
    position = position_lib.current()
    if position is None:
        return loss
    loss = _of_counted_rows(loss, position)
    if len(loss.shape) > 0:
        return loss  # the gradient sums unreduced losses: they are shares already
    return loss * position.fraction(loss.dtype)


def track_loss(tracker: Any, loss: Any, local_size: Any) -> None:
    """Adds a replica's loss to the `Mean` of the reported loss, as Keras does on one device.

    Args:
        tracker: A `keras.metrics.Mean`; its states are summed over the replicas when it is read.
        loss: The replica's loss, before `mean_of_rows`.
        local_size: Rows of this replica that count; integer scalar.
    """
    position = position_lib.current()
    if position is not None:
        loss = _of_counted_rows(loss, position)
    if len(loss.shape) == 0:
        tracker.update_state(loss, sample_weight=local_size)
    else:
        tracker.update_state(loss)  # one value per row, each of which counts once
