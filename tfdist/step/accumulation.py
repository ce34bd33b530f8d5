"""How do accumulated gradients cost only one reduction per update?

With `gradient_accumulation_steps=k` Keras's optimizer adds up the gradients of k steps, and updates
with their mean. Sums over replicas and over steps may be taken in either order. So each replica
adds its gradients to its own copy of the optimizer's accumulators, and their sum travels once,
before the update.

Between two calls of the traced loop the accumulators are the same on all replicas, as on one
device. Inside a call, replica 0 holds what was added up before it, and the others hold zeros.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication import reduction as reduction_lib
from tfdist.communication.compression import Reduction
from tfdist.communication.share import Share, is_tpu
from tfdist.compat import keras_internals, tf_internals
from tfdist.global_batch import position as position_lib
from tfdist.sharding import shards
from tfdist.step import error_feedback, replicas, update
from tfdist.step import variables as variables_lib
from tfdist.step.logs import sum_shares
from tfdist.step.replicas import Batch


def is_possible(model: keras.Model, strategy: tf.distribute.Strategy, *, on_nan: str) -> bool:
    """Tells whether the sum over the replicas can wait until the update.

    Args:
        model: A compiled model that trains by Keras's own step.
        strategy: The strategy that it was made under.
        on_nan: As in `fit`.
    """
    optimizer = model.optimizer
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer) or on_nan in ("raise", "skip"):
        return False  # the summed gradients of each step are checked for NaN
    return (
        (optimizer.gradient_accumulation_steps or 1) > 1
        and strategy.num_replicas_in_sync > 1
        and not is_tpu(strategy)  # there a step is one program
        and shards.of(optimizer) is None  # whole accumulators would take what parts save
        and not model.run_eagerly
        and optimizer.loss_scale_factor is None  # Keras divides by it before it adds up
        # In each step a float8 scale is overwritten with its gradient.
        and not any(getattr(v, "overwrite_with_gradient", False) for v in model.trainable_variables)
    )


class Accumulation:
    """The steps between two updates, as a `rounds.Rounds`.

    Args:
        model: A compiled model for which it `is_possible`.
        strategy: The strategy that it was made under.
        share: Which replicas this worker feeds.
        reduction: How the sums travel between replicas.
    """

    is_fixed = False

    def __init__(
        self,
        model: keras.Model,
        strategy: tf.distribute.Strategy,
        share: Share,
        reduction: Reduction,
    ) -> None:
        self.size: int = model.optimizer.gradient_accumulation_steps
        self._model, self._strategy = model, strategy
        self._share, self._reduction = share, reduction

    def begin(self) -> None:
        """Leaves what was added up so far on replica 0, and clears the other replicas."""
        optimizer = self._model.optimizer
        update.build(self._strategy, optimizer, self._model.trainable_variables)

        def deal_out() -> tf.Tensor:
            for of_replicas in self._accumulators():
                for number, part in zip(self._share.replicas, of_replicas, strict=True):
                    if number > 0:
                        part.assign(tf.zeros_like(part))
            return tf.constant(True)

        tf.cond(self._is_open(), deal_out, lambda: tf.constant(False))

    def step(self, batch: Batch) -> dict[str, Any]:
        """Adds up a batch's gradients, and updates at the last batch of a round."""
        gradients, logs = replicas.run(
            self._strategy, update.backward_of(self._model), batch,
            keeps_sizes=update.asks_for_sizes(self._model),
        )
        for gradient, of_replicas in zip(gradients, self._accumulators(), strict=True):
            if gradient is not None:
                own = self._strategy.experimental_local_results(gradient)
                for part, value in zip(of_replicas, own, strict=True):
                    _add(part, value)
        is_used = [gradient is not None for gradient in gradients]
        is_last = tf.equal((self._steps.value + 1) % self.size, 0)
        tf.cond(is_last, lambda: self._update(is_used), lambda: self._without_update(is_used))
        return sum_shares(self._strategy, logs)

    def end(self) -> None:
        """Gives every replica the sum so far of an unfinished round."""

        def collect() -> tf.Tensor:
            self._assign(self._summed())
            return tf.constant(True)

        tf.cond(self._is_open(), collect, lambda: tf.constant(False))

    def begun(self) -> int:
        """Returns the steps since the last update."""
        return int(np.asarray(self._steps)) % self.size

    def _update(self, is_used: Sequence[bool]) -> tf.Tensor:
        summed = self._summed()
        self._assign(self._nothing())  # the optimizer adds its accumulators to what it is given
        return self._apply(summed, is_used)

    def _without_update(self, is_used: Sequence[bool]) -> tf.Tensor:
        """Does what else Keras does in a step without an update."""
        optimizer, variables = self._model.optimizer, self._model.trainable_variables
        if optimizer.use_ema or any(variable.constraint for variable in variables):
            return self._apply(self._nothing(), is_used)  # Keras does both in every step
        with tf_internals.default_replica_mode():
            self._steps.assign_add(1)
        return tf.constant(False)

    def _apply(self, gradients: Sequence[Any], is_used: Sequence[bool]) -> tf.Tensor:
        used = [value if is_one else None for value, is_one in zip(gradients, is_used, strict=True)]
        with tf_internals.default_replica_mode(), position_lib.at(None):
            self._model.optimizer.apply(used, self._model.trainable_variables)
        return tf.constant(True)

    def _is_open(self) -> tf.Tensor:
        return tf.not_equal(self._steps.value % self.size, 0)

    @property
    def _steps(self) -> Any:
        return keras_internals.settings_of(self._model.optimizer)[0]  # counts calls, not updates

    def _accumulators(self) -> list[Sequence[Any]]:
        """Returns the accumulators of this worker's replicas, one sequence per variable."""
        sums = keras_internals.accumulators(self._model.optimizer, self._model.trainable_variables)
        values = [variables_lib.value_of(value) for value in sums]
        return [self._strategy.experimental_local_results(value) for value in values]

    def _summed(self) -> list[Any]:
        own = [[part.read_value() for part in parts] for parts in self._accumulators()]
        values = [reduction_lib.per_replica(self._strategy, parts) for parts in own]
        residuals = error_feedback.residuals_of(self._model)
        return reduction_lib.sum_gradients(
            self._strategy, values, self._reduction, residuals=residuals
        )

    def _assign(self, values: Sequence[Any]) -> None:
        for of_replicas, value in zip(self._accumulators(), values, strict=True):
            for part in of_replicas:
                part.assign(tf.broadcast_to(value, part.shape))

    def _nothing(self) -> list[tf.Tensor]:
        return [tf.zeros((), v.dtype) for v in self._model.trainable_variables]


def _add(part: Any, gradient: Any) -> None:
    if isinstance(gradient, tf.IndexedSlices):
        part.scatter_add(gradient)
    else:
        part.assign_add(gradient)
