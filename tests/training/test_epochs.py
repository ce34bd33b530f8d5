"""How often does a worker wait for the others?  Once an update, and once between two calls.

Each wait is for the slower one of the workers, whatever it carries: so they are counted.
"""

from __future__ import annotations

import collections
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.communication import workers as workers_lib
from tfdist.loop import while_loop
from tfdist.testing import run_workers

_CALLS = (3, 7)  # of the loop, in an epoch


def _model(strategy: tf.distribute.Strategy) -> keras.Model:
    with strategy.scope():
        model = keras.Sequential(
            [keras.Input((8, 8, 1)), keras.layers.Conv2D(2, 3), keras.layers.Flatten(),
             keras.layers.Dropout(0.1), keras.layers.Dense(3)]
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("adam", loss, metrics=["accuracy"], steps_per_execution=2)
    return model


def _collectives(model: keras.Model, x: Any, y: Any, phase: str) -> dict[str, int]:
    """Returns the collectives of a step by type, with that of how many workers wait."""
    found: collections.Counter[str] = collections.Counter()

    def counted(step: Any, *args: Any) -> Any:
        def once(batch: Any) -> None:
            graph = tf.compat.v1.get_default_graph()
            before = len(graph.get_operations())
            step(batch)
            found.update(
                operation.type for operation in graph.get_operations()[before:]
                if operation.type.startswith("Collective")
            )

        return original(once, *args)

    original = while_loop._traced_gathering
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(while_loop, "_traced_gathering", counted)
        if phase == "train":
            tfdist.fit(model, x, y, batch_size=4, verbose=0)
        else:
            tfdist.evaluate(model, x, y, batch_size=4, verbose=0)
    return dict(found)


def _exchanges(model: keras.Model, rows: int, phase: str) -> tuple[int, int]:
    """Returns how often workers met between calls in a pass over so many rows, and bytes sent."""
    sizes: list[int] = []
    made = workers_lib.Workers.gather

    def gather(self: Any, *values: int, **given: Any) -> Any:
        sizes.append(8 * (1 + len(values)))
        return made(self, *values, **given)

    def total(self: Any, words: np.ndarray) -> Any:
        sizes.append(words.nbytes)
        return made_total(self, words)

    made_total = workers_lib.Workers._total
    x, y = np.zeros((rows, 8, 8, 1), "float32"), np.zeros(rows, "int32")
    run = tfdist.fit if phase == "train" else tfdist.evaluate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(workers_lib.Workers, "gather", gather)
        patch.setattr(workers_lib.Workers, "_total", total)
        run(model, x, y, batch_size=4, verbose=0)
    return len(sizes), sum(sizes)


def _on_worker() -> dict[str, Any]:
    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    model = _model(strategy)
    x, y = np.zeros((8, 8, 8, 1), "float32"), np.zeros(8, "int32")
    found: dict[str, Any] = {}
    for phase in ("train", "test"):
        found[f"{phase}: collectives"] = _collectives(model, x, y, phase)
        found[phase] = [_exchanges(model, 8 * calls, phase) for calls in _CALLS]
    return found


@pytest.mark.slow  # two processes: 20 s; that a metric, say, waits for the others in a step
def test_two_workers_wait_once_an_update_and_once_a_call():
    for found in run_workers(_on_worker, timeout_secs=200, env={"TF_CPP_MIN_LOG_LEVEL": "2"}):
        assert found["train: collectives"] == {"CollectiveReduceV2": 1}, found
        assert found["test: collectives"] == {}, found
        for phase in ("train", "test"):
            (few, of_few), (many, of_many) = found[phase]
            further = _CALLS[1] - _CALLS[0]
            assert many - few == further, found
            assert of_many - of_few == further * 8 * 8, found  # a tag and seven numbers
