"""How does a step see the rows of all replicas, where examples are compared with each other?

A replica holds its own rows of a batch. A loss that compares examples (in-batch negatives, a
correlation over the batch), or a statistic of the batch, needs those of the others too.

Synopsis:

    >>> import keras
    >>> class Spread(keras.Sequential):
    ...     def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
    ...         return -keras.ops.mean(keras.ops.std(all_rows(y_pred), axis=0))
    >>> strategy = tfdist.get_strategy("2xcpu")
    >>> with strategy.scope():
    ...     model = Spread([keras.Input((4,)), keras.layers.Dense(2, activation="tanh")])
    ...     model.compile("sgd")
    >>> history = tfdist.fit(model, keras.random.normal((10, 4)), batch_size=5, verbose=0)
    >>> sorted(history.history)
    ['loss']

There, and in a `train_step` of its own, every replica computes the loss of all rows, which counts
with the replica's fraction; the fractions of all replicas add up to 1. The gradient of a row is the
sum of what all replicas found for it, so that layers before and after `all_rows` get the gradients
of one device.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.collectives import for_replica
from tfdist.global_batch import padded_rows
from tfdist.global_batch import position as position_lib
from tfdist.global_batch.position import Position


def all_rows(tensor: Any) -> Any:
    """Returns the rows of all replicas, in the order of the global batch.

    Call it where a step is computed: in a layer, `compute_loss`, `train_step`, `test_step` or a
    `replica_step`, on every replica, and outside of `tf.cond`, `tf.while_loop` and functions that
    `tf.function` compiles by themselves. The loss that is made of it may have terms of the
    replica's own rows beside it. A `replica_step`, whose losses are shares that are summed, divides
    a loss of all rows by `strategy.num_replicas_in_sync`.

    It costs a gather of the rows, and for the gradient a sum of as many numbers as all rows have.

    Args:
        tensor: This replica's rows, of shape `(n, ...)`, where `n` is the number of its rows in the
            batch; of any dtype, also integers and booleans.

    Returns:
        A tensor of shape `(global batch, ...)` and the same dtype, the same on every replica. It
        has a gradient if its dtype has one: that of trainable variables is one device's. On one
        device, and outside of a step, it is the tensor itself.

    Raises:
        ValueError: The tensor is a scalar, or has another number of rows than the replica (found
            while tracing where shapes are known, else by `InvalidArgumentError` in the step); the
            batch is padded to a static shape, whose other rows would count; or replicas cannot ask
            each other here.
    """
    if isinstance(tensor, keras.KerasTensor):
        return tensor  # a functional model is being made
    rows = tf.convert_to_tensor(tensor)
    if not rows.shape.rank:
        raise ValueError(
            f"tfdist.all_rows takes the rows of a batch, and got a tensor of shape {rows.shape}. "
            "Give a value for each row."
        )
    position = position_lib.current() or _outside_of_fit(rows)
    if position is None:
        return rows
    if position.padded_rows is not None:
        padded_rows.refuse("tfdist.all_rows gives the rows of all replicas")
    rows = _own(rows, position)
    try:
        return _linked(rows, position) if _has_gradient(rows.dtype) else gathered(rows, position)
    except RuntimeError as error:
        if "merge_call" not in str(error):
            raise
        raise ValueError(
            "tfdist.all_rows is called inside of tf.cond, tf.while_loop or a tf.function of the "
            f"step, where the {position.collectives.num_replicas} replicas cannot ask each other. "
            "Call it outside of these."
        ) from error


def gathered(rows: tf.Tensor, position: Position) -> tf.Tensor:
    """Returns the rows of all replicas, without a gradient.

    Args:
        rows: This replica's rows that count, and no others.
        position: Where they stand.
    """
    sent = tf.cast(rows, tf.int32) if rows.dtype == tf.bool else rows
    of_all = position.collectives.gather(sent, position.offset, position.global_size)
    return tf.cast(of_all, rows.dtype)


def position_of(num_rows: Any) -> Position:
    """Returns the replica's position in a batch of which only its own number of rows is known.

    Args:
        num_rows: Rows of this replica; integer scalar. All replicas call this together.

    Raises:
        RuntimeError: There is no replica: it was called in the strategy's scope.
    """
    collectives = for_replica()
    if collectives.num_replicas == 1:
        return Position(num_rows, num_rows, 0, collectives)
    numbers = tf.range(collectives.num_replicas)
    own = tf.where(tf.equal(numbers, collectives.replica_id), num_rows, 0)
    counts = collectives.sum(own)
    return Position(
        global_size=tf.reduce_sum(counts),
        local_size=num_rows,
        # Not a slice: a TPU program would have to know its size at compile time.
        offset=tf.reduce_sum(tf.where(numbers < collectives.replica_id, counts, 0)),
        collectives=collectives,
    )


def _outside_of_fit(rows: tf.Tensor) -> Position | None:
    """Returns the position in a function that the user runs on replicas; None on a single one."""
    context = tf.distribute.get_replica_context()
    if context is None or context.num_replicas_in_sync == 1:
        return None
    return position_of(tf.shape(rows)[0])


def _own(rows: tf.Tensor, position: Position) -> tf.Tensor:
    """Returns the rows that count; those of an empty replica are none, or one that does not."""
    wanted = (
        f"tfdist.all_rows takes one entry for each row of a replica, but got the shape {rows.shape}"
        " where the replica has another number of rows. Give parts that were joined, such as two"
        " views of an example, one by one."
    )
    if None not in (rows.shape[0], position.fixed_rows) and rows.shape[0] != position.fixed_rows:
        raise ValueError(wanted)
    if position.collectives.is_one_program:
        return rows  # all replicas have as many, which the shape fixes
    number = tf.shape(rows)[0]
    # An empty replica computes on one row that does not count, or on all where a step is checked.
    fits = tf.equal(number, position.local_size) | tf.equal(position.local_size, 0)
    with tf.control_dependencies([tf.debugging.Assert(fits, [wanted, number])]):
        return rows[: position.local_size]


def _linked(own: tf.Tensor, position: Position) -> tf.Tensor:
    @tf.custom_gradient
    def linked(rows: tf.Tensor) -> Any:
        def back(of_all: Any) -> tf.Tensor:
            # What a replica gives is a share already, weighted by its fraction.
            total = position.collectives.linked_sum(tf.convert_to_tensor(of_all))
            begin = tf.one_hot(0, total.shape.rank, position.offset, 0)
            return tf.slice(total, begin, tf.shape(rows))

        return gathered(rows, position), back

    return linked(own)


def _has_gradient(dtype: tf.DType) -> bool:
    return dtype.is_floating or dtype.is_complex
