"""Trains Keras 3 models on many devices with the weights, losses and metrics that one device gives.

Synopsis:

    >>> import keras, tfdist
    >>> strategy = tfdist.get_strategy("2xcpu")
    >>> with strategy.scope():
    ...     model = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(10, "softmax")])
    ...     model.compile(loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    >>> (x, y), (x_test, y_test) = tfdist.datasets.load_digits()
    >>> history = tfdist.fit(model, x, y, batch_size=64, epochs=2, verbose=0)
    >>> logs = tfdist.evaluate(model, x_test, y_test, return_dict=True, verbose=0)
    >>> sorted(logs)
    ['accuracy', 'loss']

Glossary, with one meaning everywhere:

- worker: one process of the job; a job on one machine without a launcher has one.
- replica: one copy of the model on one device. A worker has one replica or more.
- chief: worker 0, the one that shows progress and writes what is written once.
- step: one update of the weights by the optimizer, the same one on all replicas.
- global batch: the examples of one step, over all replicas of all workers; `batch_size` counts it.
- per-replica batch: one replica's share of the global batch; it may be smaller than the others'.

Read in this order, which is the order in which things happen; each file imports from those above
it only:

1. wording.py, contract.py, tf_config.py, hostlists.py, environments.py, cluster.py: who am I, and
   who are the others?
2. messages.py, facts.py, ports.py, roll_call.py, rendezvous.py, meeting.py, peers.py, progress.py,
   side_channel.py, heartbeat.py: is everybody there, and alike, alive and at work?
3. launch/: how are the workers started and ended?
4. keras_compat.py, replacing.py, tf_internals.py, outside.py: which private names does all the rest
   lean on, and what has to be done as if no step were traced?
5. devices.py, plan.py, tpu_system.py, bring_up.py, strategy.py: which strategy, and why that one?
6. share.py, position.py, shapes.py, rows.py, arrays.py, py_batches.py, same_data.py,
   largest_batch.py, data.py, ends.py, data_errors.py, feed.py: which examples are in which batch
   of which replica?
7. agreement.py, exchange.py, presence.py, own_share.py, lengths.py, one_length.py, padding.py,
   inputs.py: what do the workers tell each other?
8. state.py, randomness.py, wire.py, error_feedback.py, collectives.py, reduction.py,
   weights_of_steps.py, weights_of_rows.py, whole_batch.py, losses_metrics.py, activity_losses.py,
   batch_statistics.py, replicas.py, compiled.py, one_program.py, step.py: which variables are
   there, and what is one update of them?
9. finite.py, custom.py: what if an update is no number, or the user's own?
10. branches.py, length_check.py, pace.py, rounds.py, loop.py, accumulation.py, local_steps.py,
    rules.py, waits.py, listeners.py, prediction.py, programs.py: how are many steps run, by which
    rule, and how many at a time?
11. streams.py, plain.py, callback_state.py: what is a run?
12. claim.py, manifest.py, saved.py, checkpoint.py, identity.py, every.py, preemption.py, resume.py:
    how does it go on after a stop?
13. link_check.py, fingerprint.py, guard.py: does hardware, or a NaN, spoil it?
14. split.py, profiling.py, tuning.py, parted.py, callbacks.py, epochs.py, trainer.py, fitting.py:
    epochs, validation and callbacks, as in Keras, and where their time goes.
15. recording.py, verification.py, report.py, forecast.py, plot.py: does it all agree with one
    device, how fast is it, and how fast would it be on more workers?
16. datasets/, parquet.py, target.py, testing.py: data to try it on, data of an engine, a function
    that a flag names, workers to test with.
17. batch_search.py, memory_limit.py, batch_size.py, liveness.py, memory.py: how large a batch
    trains here, and how much memory does it take?
18. tpu/: will it train on a TPU that is not there?

Importing tfdist does nothing else: TensorFlow is imported when a name that needs it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tfdist import datasets, launch, parquet, testing, tpu
    from tfdist.batch_size import find_batch_size
    from tfdist.checkpoint import Checkpointer
    from tfdist.cluster import Cluster, detect_cluster
    from tfdist.custom import (
        apply_gradients,
        average_loss,
        distribute_dataset,
        make_train_step,
    )
    from tfdist.fitting import evaluate, fit, predict
    from tfdist.memory import estimate_memory
    from tfdist.strategy import describe, get_strategy
    from tfdist.trainer import Trainer
    from tfdist.verification import verify
    from tfdist.wire import Reduction

__version__ = "0.1.0"

__all__ = [
    "Checkpointer",
    "Cluster",
    "Reduction",
    "Trainer",
    "apply_gradients",
    "average_loss",
    "datasets",
    "describe",
    "detect_cluster",
    "distribute_dataset",
    "estimate_memory",
    "evaluate",
    "find_batch_size",
    "fit",
    "get_strategy",
    "launch",
    "make_train_step",
    "parquet",
    "predict",
    "testing",
    "tpu",
    "verify",
]

_MODULE_OF_NAME = {
    "Checkpointer": "tfdist.checkpoint",
    "Cluster": "tfdist.cluster",
    "Reduction": "tfdist.wire",
    "Trainer": "tfdist.trainer",
    "apply_gradients": "tfdist.custom",
    "average_loss": "tfdist.custom",
    "describe": "tfdist.strategy",
    "detect_cluster": "tfdist.cluster",
    "distribute_dataset": "tfdist.custom",
    "estimate_memory": "tfdist.memory",
    "evaluate": "tfdist.fitting",
    "find_batch_size": "tfdist.batch_size",
    "fit": "tfdist.fitting",
    "get_strategy": "tfdist.strategy",
    "make_train_step": "tfdist.custom",
    "predict": "tfdist.fitting",
    "verify": "tfdist.verification",
}

_SUBMODULES = ("datasets", "launch", "parquet", "testing", "tpu")


def __getattr__(name: str) -> Any:
    """Imports what a public name stands for when the name is first used (PEP 562)."""
    if name in _SUBMODULES:
        return _import_module(f"tfdist.{name}", name=name)
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module 'tfdist' has no attribute {name!r}; it has {__all__}")
    value = getattr(_import_module(_MODULE_OF_NAME[name], name=name), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _import_module(module: str, *, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("keras", "tensorflow"):
            raise
        raise ImportError(
            f"tfdist.{name} needs the package {missing!r}, which is not installed. Install it with "
            "exactly one of the extras: pip install 'tfdist[cpu]', 'tfdist[gpu]' or 'tfdist[tpu]'.",
            name=missing,
        ) from error
