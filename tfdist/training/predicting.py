"""How does a model predict for a whole feed, with the events of Keras's `predict`?"""

from __future__ import annotations

from typing import Any

import keras

from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.data.feed import Feed
from tfdist.loop.outputs import OutputLoop, as_array
from tfdist.loop.pacing import Stopwatch, batches_between_events


def predicted(
    model: keras.Model, feed: Feed, events: Any, loop: OutputLoop, *, workers: Workers | None
) -> Any:
    """Runs a model over one epoch of a feed, with the events of Keras's `predict`.

    Args:
        model: The model.
        feed: Its inputs.
        events: The callbacks.
        loop: Runs a number of batches.
        workers: The workers that predict together, or None where each predicts alone.

    Returns:
        NumPy arrays (or ragged or sparse tensors) of the model's output structure, with the rows of
        all batches.

    Raises:
        ValueError: There was no batch.
    """
    plan = batches_between_events(model, events, phase="predict")
    plan = plan.agreed(workers) if workers else plan
    model.stop_predicting = False
    events.on_predict_begin()
    planned, done, ended, outputs = feed.begin_epoch(), 0, False, []
    while not ended and not model.stop_predicting and (planned is None or done < planned):
        wanted = plan.next_steps(done, left=None if planned is None else planned - done)
        events.on_predict_batch_begin(done)
        with Stopwatch() as watch:
            ran, parts = loop(feed.iterator, wanted)
        ended = ran < wanted
        if ran == 0:
            break
        outputs += parts
        logs = {"outputs": _joined(parts)} if plan.is_watched else None
        events.on_predict_batch_end(done + (plan.event_steps or ran) - 1, logs)
        done += ran
        plan.steps = plan.after(ran, watch.secs, done=done)
    feed.end_epoch(done, ended=ended and not model.stop_predicting)
    events.on_predict_end()
    if not outputs:
        raise ValueError("The data held no batch to predict on. Give at least one example.")
    return keras.tree.map_structure(as_array, _joined(outputs))


def _joined(batches: list[Any]) -> Any:
    return keras.tree.map_structure(
        lambda *values: keras_internals.concat_batches(list(values)), *batches
    )
