"""How many examples a second do all workers train on?  Shown in Keras's bar, beside its metrics.

The bar alone gets the number: it is no metric, so it is in no history and no log.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import keras

NAME = "examples/s"


def show_examples_per_sec(
    callbacks: Iterable[Any],
    *,
    examples_of_step: float,
    clock: Callable[[], float] = time.perf_counter,
) -> None:
    """Makes Keras's bars show the examples a second of each epoch, without its validation.

    Args:
        callbacks: Those of a `fit`, of which `ProgbarLogger`s are changed.
        examples_of_step: Examples of a global batch, in the mean.
        clock: Gives the time in seconds.
    """
    for callback in callbacks:
        if isinstance(callback, keras.callbacks.ProgbarLogger):
            _show(callback, examples_of_step, clock)


def _show(bar: Any, examples_of_step: float, clock: Callable[[], float]) -> None:
    begin_epoch, end_batch = bar.on_epoch_begin, bar.on_train_batch_end
    end_epoch, begin_test = bar.on_epoch_end, bar.on_test_begin
    # Of the epoch's steps; 0 while they run, or where another process has begun the epoch.
    began, ended = 0.0, 0.0

    def rate(steps: int) -> dict[str, float]:
        secs = (ended or clock()) - began
        if not (began and steps and secs > 0):
            return {}
        return {NAME: float(round(steps * examples_of_step / secs))}

    def on_epoch_begin(epoch: int, logs: Any = None) -> None:
        nonlocal began, ended
        began, ended = clock(), 0.0
        begin_epoch(epoch, logs)

    def on_train_batch_end(batch: int, logs: Any = None) -> None:
        end_batch(batch, {**(logs or {}), **rate(batch + 1)})

    def on_test_begin(logs: Any = None) -> None:
        nonlocal ended
        ended = ended or clock()
        begin_test(logs)

    def on_epoch_end(epoch: int, logs: Any = None) -> None:
        # Without verbose=1 the bar hears of no batch, but knows how many there are.
        end_epoch(epoch, {**(logs or {}), **rate(bar.seen or bar.target or 0)})

    bar.on_epoch_begin, bar.on_train_batch_end = on_epoch_begin, on_train_batch_end
    bar.on_epoch_end, bar.on_test_begin = on_epoch_end, on_test_begin
