"""Which rule trains this model: Keras's compiled step, a step of the model's own, or a function?

A model that overrides `train_step` runs it unchanged on every replica: its losses and metrics take
on the meaning of the global batch, each `tape.gradient` in it becomes the one reduction, and each
`optimizer.apply` the one update, whatever the number of optimizers: see own_gradients.py. A
`replica_step(batch) -> logs` is given to `Trainer`; each value of its logs is the replica's share,
and the shares are summed.

A scalar that such a step computes counts as a mean over its local batch. That it is one, and not a
sum, cannot be read off, but it can be tried: first_step/checking.py does. In a `replica_step`, a
sum over the batch has to be divided by the global batch size (`tfdist.average_loss`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication import share
from tfdist.communication.compression import EXACT, Reduction
from tfdist.compat import keras_internals, replacing
from tfdist.global_batch import tracing
from tfdist.step import update
from tfdist.step.finite import FiniteWatch
from tfdist.step.logs import LastLogs, extra_logs, flat
from tfdist.step.metric_results import Results
from tfdist.step.own_gradients import OwnGradients
from tfdist.step.replicas import Batch
from tfdist.step.rounds import Rounds

Rule = Callable[[Batch], None]


def train_rule(
    model: keras.Model,
    strategy: tf.distribute.Strategy,
    logs: LastLogs,
    replica_step: Any = None,
    watch: FiniteWatch | None = None,
    reduction: Reduction = EXACT,
    rounds: Rounds | None = None,
) -> Rule:
    """Returns the function that trains the model on one global batch."""
    if rounds is not None:
        own = rounds.step
        return lambda batch: logs.keep(own(batch))
    if replica_step is not None:
        return lambda batch: _replica_step(replica_step, strategy, batch, logs)
    if share.is_tpu(strategy):
        whole = whole_step(model, watch=watch, reduction=reduction)
        return lambda batch: logs.keep(update.run_and_sum(strategy, whole, batch))
    if keras_internals.overrides(model, "train_step"):
        return lambda batch: _own_step(model, model.train_step, strategy, batch, logs, reduction)
    apply = watch.apply if watch else None
    return lambda batch: logs.keep(
        update.train_step(model, strategy, batch, apply=apply, reduction=reduction)
    )


def whole_step(
    model: keras.Model, *, watch: FiniteWatch | None = None, reduction: Reduction = EXACT
) -> Callable[[Any], dict[str, Any]]:
    """Returns the whole of a training step as a function of one replica's rows.

    Every replica runs it where a step is one program, see tpu_step.py.

    Args:
        model: A compiled model.
        watch: Checks the gradients; or None.
        reduction: How gradients travel between replicas.

    Returns:
        A function that returns the replica's shares of logs.
    """
    if keras_internals.overrides(model, "train_step"):
        own = _own_on_replica(model, model.train_step)

        def whole(data: Any) -> dict[str, Any]:
            with _reducing_optimizers(reduction):
                return own(data)

        return whole
    apply = watch.apply if watch else None
    train = update.train_on_replica(model, apply=apply, reduction=reduction)
    return watch.undoing_on_replica(model, train) if watch else train


def test_rule(model: keras.Model, strategy: tf.distribute.Strategy, logs: LastLogs) -> Rule:
    """Returns the function that adds one global batch to the model's loss and metrics."""
    if keras_internals.overrides(model, "test_step"):
        return lambda batch: _own_step(model, model.test_step, strategy, batch, logs)
    return lambda batch: logs.keep(update.test_step(model, strategy, batch))


def _replica_step(
    replica_step: Any, strategy: tf.distribute.Strategy, batch: Batch, logs: LastLogs
) -> None:
    def on_replica(data: Any) -> dict[str, Any]:
        shares = replica_step(data)
        if shares is None:
            return {}
        return shares if isinstance(shares, dict) else {"loss": shares}

    logs.keep(
        update.run_and_sum(strategy, on_replica, batch, reduces_losses=False, keeps_sizes=True)
    )


def _own_step(
    model: keras.Model,
    own: Callable[[Any], Any],
    strategy: tf.distribute.Strategy,
    batch: Batch,
    logs: LastLogs,
    reduction: Reduction = EXACT,
) -> None:
    """Runs a model's own `train_step` or `test_step` on every replica."""

    is_tpu = share.is_tpu(strategy)  # there XLA compiles every step
    if model.jit_compile and strategy.num_replicas_in_sync > 1 and not is_tpu:
        raise ValueError(
            f"jit_compile=True cannot compile {own.__qualname__}, which updates the weights "
            f"itself, on {strategy.num_replicas_in_sync} replicas: XLA allows no reduction inside "
            "of it. Compile with jit_compile=False, or leave train_step to Keras."
        )
    results = Results()
    run_one = _own_on_replica(model, own, logs, results)
    if model.jit_compile and not model.run_eagerly and not is_tpu:
        run_one = tf.function(run_one, autograph=False, jit_compile=True)
    with _reducing_optimizers(reduction, is_whole=batch.is_whole), results.noting(model):
        undoing = tracing.undoing_filler(model, run_one)
        logs.keep(update.run_and_sum(strategy, undoing, batch, keeps_sizes=True))


def _own_on_replica(
    model: keras.Model,
    own: Callable[[Any], Any],
    logs: LastLogs | None = None,
    results: Results | None = None,
) -> Callable[[Any], dict[str, Any]]:
    """Returns a model's own step as a function that gives a replica's shares of its logs.

    Args:
        model: The model.
        own: Its step.
        logs: Takes note of the names of the logs.
        results: What the model's metrics return in the step.
    """

    def on_replica(data: Any) -> dict[str, Any]:
        returned = own(data)
        if not isinstance(returned, dict):
            raise ValueError(
                f"{own.__qualname__} returned {returned!r}. Return a dict of name to value, as "
                "`{m.name: m.result() for m in self.metrics}`."
            )
        known = {}
        if logs is not None and results is not None:
            found = {name: results.of(value) for name, value in flat(returned).items()}
            known = {name: result for name, result in found.items() if result is not None}
            logs.names, logs.results = tuple(found), known
        return extra_logs(model, returned, data, known=known)

    return on_replica


@contextlib.contextmanager
def _reducing_optimizers(reduction: Reduction, *, is_whole: bool = False) -> Iterator[None]:
    """Makes `tape.gradient` the one reduction, and `optimizer.apply` the one update, of a step."""

    own = OwnGradients(reduction, is_whole=is_whole)
    with replacing.replaced_apply(own.apply), replacing.replaced_gradient(own.gradient):
        yield
