"""What is a step that every replica runs as one program, from its rows to its new weights?

On a TPU the host only starts programs. So forward and backward pass, the sums over the replicas,
the checks for infinities, clipping and the update are all in the function that `strategy.run` runs.
A replica calls the functions here, unless they take a strategy. `tfdist.tpu.preflight` compiles the
same functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import compression, share
from tfdist.communication import reduction as reduction_lib
from tfdist.communication.collectives import Collectives, for_replica
from tfdist.communication.compression import EXACT, Reduction
from tfdist.compat import tf_internals
from tfdist.global_batch import position as position_lib
from tfdist.step import replicas
from tfdist.step.replicas import Batch

Apply = Callable[[Any, Sequence[Any], Sequence[Any]], None]  # takes what `optimizer.apply` does


def run(
    strategy: tf.distribute.Strategy,
    replica_fn: Callable[[Any], dict[str, Any]],
    batch: Batch,
    *,
    reduces_losses: bool = True,
) -> dict[str, Any]:
    """Runs a function on each replica's rows and returns the sums of the shares that it returns.

    Args:
        strategy: The strategy whose replicas run it, in cross-replica context.
        replica_fn: Takes one replica's structure of tensors; returns its shares by name.
        batch: One global batch.
        reduces_losses: As in `replicas.run`.
    """

    def whole(data: Any) -> dict[str, Any]:
        return sum_shares(replica_fn(data))

    summed = replicas.run(strategy, whole, batch, reduces_losses=reduces_losses)
    return {name: strategy.experimental_local_results(v)[0] for name, v in summed.items()}


def is_here() -> bool:
    """Tells whether the traced replica has the update in its program."""
    return _collectives().is_one_program or share.is_tpu(tf.distribute.get_strategy())


def update(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    variables: Sequence[Any],
    *,
    apply: Apply | None = None,
    reduction: Reduction = EXACT,
) -> None:
    """Sums the replicas' gradients and applies them to this replica's variables.

    Args:
        optimizer: An optimizer whose variables exist.
        gradients: Of this replica's share of the loss: tensors, IndexedSlices or None.
        variables: The variables, in the same order.
        apply: Applies gradients with an optimizer, instead of `optimizer.apply`.
        reduction: How gradients travel between replicas.
    """
    apply_sums(optimizer, sum_on_replica(gradients, reduction), variables, apply=apply)


def sum_on_replica(gradients: Sequence[Any], reduction: Reduction = EXACT) -> list[Any]:
    """Sums the gradients of the traced replica over all of them; see `sum_gradients`."""
    return sum_gradients(gradients, _collectives(), reduction)


def apply_sums(
    optimizer: keras.optimizers.Optimizer,
    summed: Sequence[Any],
    variables: Sequence[Any],
    *,
    apply: Apply | None = None,
) -> None:
    """Applies gradients that are the same on all replicas, here or in cross-replica context."""
    # In this mode Keras does not sum again, and TensorFlow assigns each replica's own variable
    # without communication: all replicas write the same.
    with tf_internals.default_replica_mode(), position_lib.at(None):
        if apply is None:
            optimizer.apply(summed, variables)
        else:
            apply(optimizer, summed, variables)


def sum_shares(shares: dict[str, Any]) -> dict[str, Any]:
    """Returns the sums over all replicas of this one's share of each log."""
    total = _collectives().sum
    return {name: total(value) for name, value in shares.items()}


def sum_gradients(
    gradients: Sequence[Any], collectives: Collectives, reduction: Reduction = EXACT
) -> list[Any]:
    """Sums gradients over all replicas.

    Args:
        gradients: This replica's: tensors, IndexedSlices or None.
        collectives: How it sums.
        reduction: What they look like on the way; XLA packs by itself.

    Returns:
        One per gradient. Rows of an embedding stay rows, since Keras's optimizers update only the
        touched rows.
    """
    if not collectives.is_one_program:  # a replica that is the only one
        return [reduction_lib.joined(gradient) for gradient in gradients]
    return [
        None if value is None else _summed(value, collectives, reduction) for value in gradients
    ]


def _summed(gradient: Any, collectives: Collectives, reduction: Reduction) -> Any:
    if isinstance(gradient, reduction_lib.Lookups):
        of_batch, shared = gradient
        values = collectives.sum(shared.values)
        alike = tf.IndexedSlices(values, shared.indices, shared.dense_shape)
        rows = None if of_batch is None else _all_rows(of_batch, collectives)
        return reduction_lib.joined(reduction_lib.Lookups(rows, alike))
    if isinstance(gradient, tf.IndexedSlices):
        return _all_rows(gradient, collectives)
    gradient = tf.convert_to_tensor(gradient)
    if not reduction.narrows(gradient.dtype):
        return collectives.sum(gradient)
    scale = None
    if reduction.wire_dtype == "float16":
        scale = compression.scales_of(collectives.sum(compression.largest(gradient)))
    narrowed = compression.narrow(gradient, str(reduction.wire_dtype), scale)
    return compression.widen(collectives.sum(narrowed), gradient.dtype, scale)


def _all_rows(slices: tf.IndexedSlices, collectives: Collectives) -> tf.IndexedSlices:
    """Returns the rows of all replicas, which in one program all have the same number."""
    own = slices.values.shape[0]
    if own is None:
        raise ValueError(
            "The gradient of an embedding has an unknown number of rows, but a program for a TPU"
            " needs every shape fixed. Train with static_shapes=True."
        )
    offset_and_total = own * collectives.replica_id, own * collectives.num_replicas
    return tf.IndexedSlices(
        collectives.gather(slices.values, *offset_and_total),
        collectives.gather(slices.indices, *offset_and_total),
        slices.dense_shape,
    )


def _collectives() -> Collectives:
    position = position_lib.current()
    return for_replica() if position is None else position.collectives
