"""What are the gradients that a model's own `train_step` sees?

Those of the global batch: `tape.gradient` for variables returns the sum over all replicas. So a
norm to clip by, the ascent of SAM, or a gradient that is accumulated by hand, are the ones of one
device, and `optimizer.apply` has nothing left to sum. Gradients for anything but variables, such as
those of a gradient penalty, belong to the rows that a replica has, and stay as they are.

`optimizer.apply` asks the graph what it is given. What is made of summed gradients, and of nothing
that differs between replicas, is applied as it is. Anything else is taken for the gradient of a
mean over the replica's rows, and summed with the replica's weight: also the gradient that a
`tf.function` inside of the step has taken, where no replica can ask the others; there it may be
added to others, but not be used otherwise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from tfdist.communication.compression import EXACT, Reduction
from tfdist.communication.reduction import Lookups
from tfdist.compat import keras_internals, tf_internals
from tfdist.global_batch import position as position_lib
from tfdist.global_batch import row_losses
from tfdist.global_batch.position import Position
from tfdist.step import from_replica, lookups, replicas, tpu_step, update, uses
from tfdist.step.dependence import Origins, leaves, origins


class OwnGradients:
    """The gradients of one step of a model's own: what stands in place of TensorFlow's and Keras's.

    Made in cross-replica context, before the replicas run the step.

    Args:
        reduction: How gradients travel between replicas.
        is_whole: Whether every replica has all rows, so that its gradients are those of the batch.
    """

    def __init__(self, reduction: Reduction = EXACT, *, is_whole: bool = False) -> None:
        self._reduction, self._is_whole = reduction, is_whole
        self._graph = tf.compat.v1.get_default_graph()
        self._summed: dict[int, Any] = {}  # by id; each is kept, so that its id is its own
        self._apart: list[Any] = []
        self._thread = threading.local()

    def gradient(
        self, original: Callable[..., Any], tape: Any, target: Any, sources: Any,
        *args: Any, **kwargs: Any,
    ) -> Any:
        """Does as `tape.gradient`, for the global batch where all sources are variables."""
        position = position_lib.current()
        if position is None or self._is_whole or getattr(self._thread, "goes_back", False):
            return original(tape, target, sources, *args, **kwargs)
        if not row_losses.are_variables(sources):
            return row_losses.gradient(original, tape, target, sources, *args, **kwargs)
        if not self._can_sum(position):
            own = row_losses.gradient(original, tape, target, sources, *args, **kwargs)
            return tf.nest.map_structure(self._taken_apart, own)
        # A function whose gradient is computed by another tape takes part in this one.
        self._thread.goes_back = True
        try:
            shares = row_losses.share_of_gradient(original, tape, target, sources, *args, **kwargs)
        finally:
            self._thread.goes_back = False
        sums = _summed(tf.nest.flatten(shares), self._reduction)
        for gradient in sums:
            for tensor in _parts(gradient):
                self._summed[id(tensor)] = tensor
        return tf.nest.pack_sequence_as(shares, sums)

    def apply(
        self, original: Callable[..., Any], optimizer: Any, grads: Any, variables: Any = None
    ) -> Any:
        """Does as `optimizer.apply`: once for all replicas, with what is not summed yet summed."""
        position = position_lib.current()
        if position is None:  # the update itself, or a replica that is the only one
            return original(optimizer, grads, variables)
        grads = list(grads)
        variables = list(variables or keras_internals.trainable_variables_of(optimizer))
        if not self._can_sum(position):
            total = tf.distribute.get_strategy().num_replicas_in_sync
            raise ValueError(
                "optimizer.apply is called inside of tf.cond, tf.while_loop or a tf.function, "
                f"where the {total} replicas cannot update their weights together. Call it in "
                "train_step itself; to accumulate gradients, make the optimizer with "
                "gradient_accumulation_steps=n, which Keras does by itself."
            )
        if self._is_whole:
            own = replicas.of_first(grads)
            sums = from_replica.sum_gradients(own, reduction=self._reduction)
            return from_replica.apply_sums(optimizer, sums, variables)
        waiting = {
            index: self._share(gradient, position)
            for index, gradient in enumerate(grads)
            if gradient is not None and not self._is_summed(gradient, position)
        }
        if waiting:
            self._require_untouched([grads[index] for index in waiting], position)
            sums = from_replica.sum_gradients(list(waiting.values()), reduction=self._reduction)
            for index, gradient in zip(waiting, sums, strict=True):
                grads[index] = gradient
        return from_replica.apply_sums(optimizer, grads, variables)

    def _taken_apart(self, gradient: Any) -> Any:
        """Notes a gradient of this replica alone, so that its uses can be looked at later."""
        if not isinstance(gradient, (tf.Tensor, tf.IndexedSlices)):
            return gradient
        # A copy is used by whoever asked for it alone; the gradient may be part of other ones.
        copy = tf.nest.map_structure(tf.identity, gradient, expand_composites=True)
        self._apart.append(_parts(copy)[0])
        return copy

    def _require_untouched(self, gradients: Sequence[Any], position: Position) -> None:
        """Raises a ValueError if a gradient that only this replica has is used before `apply`."""

        def has_rows(tensor: Any) -> bool:
            return self._origins(tensor, position).has_rows

        if not self._apart or tf.executing_eagerly():
            return
        values = [_parts(gradient)[0] for gradient in gradients]
        if not all(uses.is_only_summed(tensor) for tensor in self._apart) or not all(
            uses.is_sum_of_results(value, self._summed, has_rows) for value in values
        ):
            raise ValueError(
                "A tf.function, tf.cond or tf.while_loop inside of the step takes gradients that "
                "are used before optimizer.apply gets them, and they are those of one of "
                f"{position.collectives.num_replicas} replicas. Call tape.gradient in train_step "
                "itself, where it gives the gradients of the whole batch."
            )

    def _can_sum(self, position: Position) -> bool:
        """Tells whether replicas can ask each other here: not inside of tf.cond, say."""
        is_outermost = tf.compat.v1.get_default_graph() is self._graph
        is_alone = position.has_all and not self._is_whole
        return is_outermost or is_alone or tpu_step.is_here()

    def _is_summed(self, gradient: Any, position: Position) -> bool:
        if all(id(tensor) in self._summed for tensor in _parts(gradient)):
            return True
        if tf.executing_eagerly():
            return False  # summed once more: what is the same everywhere is its own weighted sum
        found = [self._origins(tensor, position) for tensor in _parts(gradient)]
        is_known = any(one.has_known for one in found)
        return is_known and not any(one.has_rows or one.is_drawn for one in found)

    def _share(self, gradient: Any, position: Position) -> Any:
        """Returns a replica's share of a gradient that is not summed yet."""
        factor = position.fraction(gradient.dtype)
        if not tf.executing_eagerly():
            found = [self._origins(tensor, position) for tensor in _parts(gradient)]
            if any(one.has_known for one in found) and not any(one.has_rows for one in found):
                # Noise that each replica draws by itself: there is one draw on one device.
                is_first = tf.equal(position.collectives.replica_id, 0)
                factor = tf.cast(is_first, gradient.dtype)
        share = update.scaled(gradient, factor)
        if isinstance(gradient, tf.IndexedSlices) and id(gradient.indices) in self._summed:
            return Lookups(None, share)  # the rows of all replicas already
        return lookups.separated([share])[0]

    def _origins(self, tensor: Any, position: Position) -> Origins:
        return origins(tensor, leaves(position.inputs), self._summed)


def _parts(gradient: Any) -> list[Any]:
    """Returns the tensors of a gradient that its numbers are in; none of None."""
    if isinstance(gradient, tf.IndexedSlices):
        return [gradient.values, gradient.indices]
    return [] if gradient is None else [gradient]


def _summed(gradients: Sequence[Any], reduction: Reduction) -> list[Any]:
    """Sums the shares of all replicas; what is recorded by a tape has a gradient again.

    A gradient of a sum is a share too, so that its own sum is the whole gradient.
    """

    def total(shares: Sequence[Any]) -> list[Any]:
        return from_replica.sum_gradients(lookups.separated(shares), reduction=reduction)

    if not tf_internals.is_recording():
        return total(gradients)
    dense = [index for index, g in enumerate(gradients) if isinstance(g, tf.Tensor)]
    sums: list[Any] = []

    @tf.custom_gradient
    def linked(*values: Any) -> Any:
        whole = list(gradients)
        for index, value in zip(dense, values, strict=True):
            whole[index] = value
        sums[:] = total(whole)
        return [sums[index] for index in dense], lambda *back: _summed(back, reduction)

    if not dense:
        sums = total(gradients)
    else:
        for index, value in zip(dense, linked(*(gradients[i] for i in dense)), strict=True):
            sums[index] = value
    return [
        _ended(own, rows) if isinstance(rows, tf.IndexedSlices) else rows
        for own, rows in zip(gradients, sums, strict=True)
    ]


def _ended(own: tf.IndexedSlices, rows: tf.IndexedSlices) -> tf.IndexedSlices:
    """Returns the rows of all replicas, whose gradient cannot be asked for."""

    def back(_: Any) -> Any:
        raise ValueError(
            "The step takes the gradient of the gradient of an embedding, whose rows lie on "
            "several replicas. Train with it on one device."
        )

    ended = tf.custom_gradient(lambda _: (tf.identity(rows.values), back))
    return tf.IndexedSlices(ended(own.values), rows.indices, rows.dense_shape)
