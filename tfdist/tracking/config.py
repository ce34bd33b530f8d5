"""What is a run made of?  What trackers are told when it starts, in plain values."""

from __future__ import annotations

import os
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.checkpoint import same_run
from tfdist.checkpoint.checkpointer import Checkpointer
from tfdist.cluster import contract
from tfdist.communication.workers import Workers
from tfdist.data.feed import Feed


def restarts() -> int:
    """Returns how often the launcher has restarted the workers of this job."""
    return int(os.environ.get(contract.RESTART_COUNT) or 0)


def folder_of(checkpoint: Any) -> str | None:
    """Returns the folder of what `fit` got as `checkpoint_dir`, or None."""
    if checkpoint is None:
        return None
    if isinstance(checkpoint, Checkpointer):
        return os.fspath(checkpoint.directory)
    return os.path.abspath(os.path.expanduser(checkpoint))


def config_of(model: keras.Model, workers: Workers, feed: Feed) -> dict[str, Any]:
    """Returns what is known of a run before it begins.

    Args:
        model: The model, built.
        workers: Of its strategy.
        feed: The data that it trains on.
    """
    compiled = same_run.of_model(model)
    names = ("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics")
    return {
        "versions": {"keras": keras.__version__, "tensorflow": tf.__version__},
        "workers": workers.count,
        "replicas": workers.share.num_replicas,
        "model": {
            "name": model.name,
            "class": type(model).__qualname__,
            "parameters": sum(int(np.prod(weight.shape)) for weight in model.weights),
        },
        "compiled": {name: compiled[name] for name in names if compiled.get(name) is not None},
        "learning_rate": same_run.learning_rate(model) if model.compiled else None,
        "steps_per_epoch": feed.num_batches,
        "restarts": restarts(),
    }
