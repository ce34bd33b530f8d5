"""How is a custom training loop written?  With the parts of a step as functions.

Synopsis:

    >>> import keras, tfdist
    >>> strategy = tfdist.get_strategy("2xcpu")
    >>> with strategy.scope():
    ...     model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    ...     optimizer = keras.optimizers.SGD(0.1)
    ...     optimizer.build(model.trainable_variables)
    >>> def replica_step(batch):
    ...     x, y = batch
    ...     with tf.GradientTape() as tape:
    ...         loss = average_loss(tf.square(y - model(x, training=True)[:, 0]), model=model)
    ...         scaled = optimizer.scale_loss(loss)
    ...     gradients = tape.gradient(scaled, model.trainable_variables)
    ...     apply_gradients(optimizer, gradients, model.trainable_variables)
    ...     return loss
    >>> train_step = make_train_step(replica_step, strategy)
    >>> dataset = tf.data.Dataset.from_tensor_slices((tf.ones([5, 4]), tf.ones([5]))).batch(3)
    >>> losses = [float(train_step(batch)) for batch in distribute_dataset(dataset, strategy)]
    >>> len(losses)
    2
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.collectives import for_replica
from tfdist.communication.compression import Reduction, parse_reduction
from tfdist.communication.presence import Presence
from tfdist.communication.reduction import per_replica
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, private_names, replacing, tf_internals
from tfdist.data import rows
from tfdist.data.pipelines import tf_data
from tfdist.global_batch import all_rows, randomness, tracing, unsplit_layers
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position
from tfdist.step import from_replica

_plain = tf.autograph.experimental.do_not_convert


def average_loss(
    per_example: Any, *, sample_weight: Any = None, model: keras.Model | None = None
) -> tf.Tensor:
    """Returns this replica's share of the mean loss over the global batch.

    The shares of all replicas sum to the mean, so their gradients have to be *summed*, which
    `apply_gradients` does. As in Keras, the mean counts examples whether they are weighted or not
    (`tf.nn.compute_average_loss` has the same rule).

    Args:
        per_example: Losses of this replica's examples, shape `(n,)` or `(n, ...)`, floating; every
            entry counts once. `n` may be 0.
        sample_weight: Weights to multiply `per_example` with; broadcast from the left, as `(n,)`
            against `(n, timesteps)`.
        model: Where given, the model's own losses (`add_loss`, regularizers) are added, each at
            the value that one device would give it. Give it after the forward pass.

    Returns:
        Scalar of the dtype of `per_example`.

    Raises:
        RuntimeError: There is no replica: it was called in the strategy's scope.
    """
    position = _position(per_example)
    own_losses = list(model.losses) if model is not None else []  # before any collective
    per_example = tf.convert_to_tensor(per_example)
    weighted = per_example
    if sample_weight is not None:
        weight = tf.cast(sample_weight, per_example.dtype)
        missing = per_example.shape.rank - weight.shape.rank
        weighted = per_example * tf.reshape(
            weight, tf.concat([tf.shape(weight), tf.ones([missing], tf.int32)], 0)
        )
    per_row = tf.reduce_prod(tf.shape(per_example)[1:])
    entries = tf.cast(per_row * position.global_size, weighted.dtype)
    share = tf.reduce_sum(weighted) / entries
    for loss in own_losses:
        share += tf.cast(tf.reduce_sum(loss), share.dtype) * position.fraction(share.dtype)
    return share


def apply_gradients(
    optimizer: keras.optimizers.Optimizer,
    gradients: Sequence[Any],
    trainable_variables: Sequence[Any],
    *,
    reduction: Reduction | str | None = None,
) -> None:
    """Sums the replicas' gradients over all replicas of all workers, once, and applies them.

    Call it inside the function that `strategy.run` runs. Checking for infinities, removing the loss
    scale, clipping, accumulating and averaging all happen after the sum, by the Keras optimizer's
    own options, as on one device.

    Args:
        optimizer: A Keras optimizer, made in the strategy's scope.
        gradients: Tensors, IndexedSlices or None, one per variable: gradients of this replica's
            share of the loss (see `average_loss`). Do not reduce them yourself.
        trainable_variables: The variables, in the same order.
        reduction: How gradients travel between replicas, as in `tfdist.fit`.

    Raises:
        ValueError: The numbers of gradients and variables differ, `reduction` is invalid, or
            variables are to be overwritten with gradients (float8).
        RuntimeError: There is no replica: it was called in the strategy's scope.
    """
    gradients, variables = list(gradients), list(trainable_variables)
    reduction = parse_reduction(reduction)
    if reduction.is_open or reduction.error_feedback:
        raise ValueError(
            f"reduction={reduction!r} needs fit, which chooses sizes and keeps the rounding "
            "errors. Give sizes in bytes, and leave out error_feedback."
        )
    if len(gradients) != len(variables):
        raise ValueError(
            f"There are {len(gradients)} gradients for {len(variables)} variables. Give "
            "tape.gradient(loss, variables) and the same variables."
        )
    context = tf.distribute.get_replica_context()
    if context is None:
        for_replica()  # raises: says where to call it
    if context.num_replicas_in_sync == 1:
        optimizer.apply(gradients, variables)
        return
    unsplit_layers.refuse_overwritten(variables, context.num_replicas_in_sync)
    from_replica.apply_gradients(optimizer, gradients, variables, reduction=reduction)


def make_train_step(
    replica_step: Callable[[Any], Any], strategy: tf.distribute.Strategy, *, jit_compile: Any = None
) -> Callable[[Any], Any]:
    """Makes a traced function that runs `replica_step` on every replica and sums what it returns.

    Args:
        replica_step: Takes one replica's batch; returns a tensor or a structure of tensors, each
            this replica's *share* of a global value, such as `average_loss`.
        strategy: The strategy whose replicas run it.
        jit_compile: Passed on to `tf.function`.

    Returns:
        A function of one element of `distribute_dataset`. It returns the sums over all replicas of
        all workers, the same on every worker. Keras's random layers draw each example's own values
        in it, as on one device.
    """
    private_names.check()

    def on_replica(batch: Any) -> Any:
        position = _position(batch) if strategy.num_replicas_in_sync > 1 else None
        if position is not None:
            position = dataclasses.replace(
                position, fixed_rows=rows.fixed_in(batch), inputs=tuple(keras.tree.flatten(batch))
            )
        with position_lib.at(position):
            return replica_step(batch)

    @tf.function(autograph=False, reduce_retracing=True, jit_compile=jit_compile)
    def train_step(batch: Any) -> Any:
        draws = randomness.keyed_draws(keras_internals.random_functions())
        with replacing.replaced(draws), tf_internals.default_replica_mode():
            shares = strategy.run(_plain(on_replica), args=(batch,))
            return keras.tree.map_structure(
                lambda share: strategy.reduce(tf.distribute.ReduceOp.SUM, share, axis=None), shares
            )

    return train_step


def distribute_dataset(
    dataset: tf.data.Dataset, strategy: tf.distribute.Strategy
) -> Iterator[Any]:
    """Iterates over global batches, each split over the replicas of all workers.

    Meanwhile the workers watch each other, as in `tfdist.fit`: if one dies or is stopped, the
    others end with an error that names it, instead of waiting for it in the next step for ever.

    Args:
        dataset: Batched in *global* batches; every worker gives the same one.
        strategy: The strategy whose replicas will train.

    Yields:
        One per-replica structure for each global batch: what the function of `make_train_step`
        takes. Each example is on exactly one replica. A batch smaller than the number of replicas
        leaves some replicas with tensors of zero rows.

    Raises:
        ValueError: The dataset is not batched.
    """
    workers = Workers(strategy)
    source = tf_data.dataset_source(dataset, share=workers.share, fill_empty=False)
    presence = Presence(workers)
    with presence.run():
        for _, parts in source.stream(0, 0):
            presence.tick()
            yield per_replica(strategy, parts)


def _position(batch: Any) -> Position:
    """Returns the current position; outside of fit, asks the other replicas for their rows."""
    position = position_lib.current()
    if position is not None:
        return position
    return all_rows.position_of(tracing.num_rows(batch))
