"""Which models does benchmark.py time, and on which core does a worker of it run?"""

from __future__ import annotations

import os
import pathlib
from typing import Any

from tfdist.cluster import contract


def cnn() -> list[Any]:
    """Returns the layers of a CNN that computes much and sums little: 66 k parameters."""
    import keras

    layers = keras.layers
    return [
        keras.Input((32, 32, 3)),
        layers.Conv2D(32, 3, padding="same", activation="relu"),
        layers.Conv2D(32, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(64, 3, padding="same", activation="relu"),
        layers.Conv2D(64, 3, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(10),
    ]


def mlp() -> list[Any]:
    """Returns the layers of an MLP of 17 M parameters."""
    import keras

    dense = keras.layers.Dense
    return [keras.Input((64,)), dense(4096, "relu"), dense(4096, "relu"), dense(10)]


def compiled(layers: list[Any]) -> Any:
    """Returns a compiled model of these layers."""
    import keras

    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = keras.Sequential(layers)
    model.compile(keras.optimizers.Adam(), loss)
    return model


def zeros(model: Any, rows: int) -> tuple[Any, Any]:
    """Returns so many examples for a model."""
    import numpy as np

    return np.zeros((rows, *model.input_shape[1:]), "float32"), np.zeros(rows, "int32")


def pin_to_core() -> None:
    """Gives a worker one core, that of its local rank; all of its threads, also those to come.

    A number of threads alone does not do that: those that send and receive are not counted, and
    take the core that is free. Systems other than Linux know no such thing.
    """
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    core = cores[int(os.environ[contract.LOCAL_RANK]) % len(cores)]
    for thread in pathlib.Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
