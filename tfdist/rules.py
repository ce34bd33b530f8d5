"""Which rule trains this model: Keras's compiled step, a step of the model's own, or a function?

A model that overrides `train_step` runs it unchanged on every replica: its losses and metrics take
on the meaning of the global batch, and each `optimizer.apply` in it becomes the one reduction and
update of `step.update`, whatever the number of optimizers. A `replica_step(batch) -> logs` is given
to `Trainer`; each value of its logs is the replica's share, and the shares are summed.

What cannot be seen from outside is the one limit: a scalar that such a step computes counts as a
mean over its local batch. A sum over the batch has to be divided by the global one
(`tfdist.average_loss` in a `replica_step`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist import keras_compat, replicas, step
from tfdist import position as position_lib
from tfdist.finite import FiniteWatch
from tfdist.outside import plain_variable
from tfdist.replicas import Batch
from tfdist.rounds import Rounds
from tfdist.wire import EXACT, Reduction

Rule = Callable[[Batch], None]


class LastLogs:
    """What a step returned last: for logs that are not results of the model's metrics."""

    def __init__(self) -> None:
        self._values: dict[str, tf.Variable] = {}

    def keep(self, logs: dict[str, Any]) -> None:
        """Stores scalars from inside a traced step."""
        for name, value in logs.items():
            if name not in self._values:
                self._values[name] = plain_variable(value.dtype)
            self._values[name].assign(value)

    def read(self) -> dict[str, tf.Tensor]:
        """Returns the values of the last step that ran."""
        return {name: value.read_value() for name, value in self._values.items()}


def train_rule(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    logs: LastLogs,
    replica_step: Any = None,
    watch: FiniteWatch | None = None,
    how: Reduction = EXACT,
    rounds: Rounds | None = None,
) -> Rule:
    """Returns the function that takes the model through one global batch of training."""
    if rounds is not None:
        own = rounds.step
        return lambda batch: logs.keep(own(batch))
    if replica_step is not None:
        return lambda batch: _replica_step(replica_step, strategy, batch, logs)
    if keras_compat.overrides(model, "train_step"):
        return lambda batch: _own_step(model, model.train_step, strategy, batch, logs, how)
    apply = watch.apply if watch else None
    return lambda batch: logs.keep(step.train_step(model, strategy, batch, apply=apply, how=how))


def test_rule(model: keras.Model, strategy: tf.distribute.Strategy, logs: LastLogs) -> Rule:
    """Returns the function that adds one global batch to the model's loss and metrics."""
    if keras_compat.overrides(model, "test_step"):
        return lambda batch: _own_step(model, model.test_step, strategy, batch, logs)
    return lambda batch: logs.keep(step.test_step(model, strategy, batch))


def _replica_step(
    replica_step: Any, strategy: tf.distribute.Strategy, batch: Batch, logs: LastLogs
) -> None:
    shares = replicas.run(strategy, replica_step, batch, reduces_losses=False)
    if shares is None:
        shares = {}
    logs.keep(step.sum_shares(strategy, shares if isinstance(shares, dict) else {"loss": shares}))


def _own_step(
    model: keras.Model,
    own: Callable[[Any], Any],
    strategy: tf.distribute.Strategy,
    batch: Batch,
    logs: LastLogs,
    how: Reduction = EXACT,
) -> None:
    """Runs a model's own `train_step` or `test_step` on every replica."""

    if model.jit_compile and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            f"jit_compile=True cannot compile {own.__qualname__}, which updates the weights "
            f"itself, on {strategy.num_replicas_in_sync} replicas: XLA allows no reduction inside "
            "of it. Compile with jit_compile=False, or leave train_step to Keras."
        )

    def on_replica(data: Any) -> dict[str, Any]:
        returned = own(data)
        if not isinstance(returned, dict):
            raise ValueError(
                f"{own.__qualname__} returned {returned!r}. Return a dict of name to value, as "
                "`{m.name: m.result() for m in self.metrics}`."
            )
        return step.extra_logs(model, returned)

    is_jit = model.jit_compile and not model.run_eagerly
    run_one = tf.function(on_replica, autograph=False, jit_compile=True) if is_jit else on_replica
    with _reducing_optimizers(strategy, how):
        shares = replicas.run(strategy, replicas.undoing_filler(model, run_one), batch)
    logs.keep(step.sum_shares(strategy, shares))


@contextlib.contextmanager
def _reducing_optimizers(strategy: tf.distribute.Strategy, how: Reduction) -> Iterator[None]:
    """Makes `optimizer.apply`, called by a replica, the one reduction and update of a step."""
    if strategy.num_replicas_in_sync == 1:
        yield
        return

    def apply(
        original: Any, optimizer: Any, grads: Any, trainable_variables: Any = None
    ) -> Any:
        place = position_lib.current()
        if place is None:  # the update itself, in cross-replica context
            return original(optimizer, grads, trainable_variables)
        variables = list(trainable_variables or optimizer._trainable_variables)
        grads = [g if g is None else step.scaled(g, place.fraction(g.dtype)) for g in grads]
        return step.apply_on_replica(optimizer, grads, variables, how=how)

    with keras_compat.replaced_apply(apply):
        yield
