"""How long does a traced loop wait for its batches? Time stamps in its graph tell.

The loop fetches the next batch while a step is still running. So a wait is the time from the end of
the step to the arrival of the batch; a batch that arrived earlier costs nothing. The time stamps do
not reorder anything, so the loop computes the same as without them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from tfdist.compat.untraced import plain_variable
from tfdist.loop.while_loop import next_where
from tfdist.step.replicas import Batch


class Waits:
    """Adds up the waits of the loop that is traced with it; one for each loop."""

    def __init__(self) -> None:
        self._secs = plain_variable(tf.float64)
        self._ready: Any = None  # when the last step was done, in the graph being traced

    def after(self, step: Callable[[Batch], None]) -> Callable[[Batch], None]:
        """Returns a step that notes when all of it is done."""

        def timed(batch: Batch) -> None:
            graph = tf.compat.v1.get_default_graph()
            before = len(graph.get_operations())
            step(batch)
            with tf.control_dependencies(graph.get_operations()[before:]):
                self._ready = tf.timestamp()

        return timed

    def next_where(self, is_wanted: Any, iterator: Any) -> Any:
        """Does what `while_loop.next_where` does, and adds up how long the loop waited."""
        ready, self._ready = self._ready, None
        if ready is None or ready.graph is not tf.compat.v1.get_default_graph():
            ready = tf.timestamp()  # before the first step of a call
        batch = next_where(is_wanted, iterator)
        with tf.control_dependencies([batch.has_value()]):
            came = tf.timestamp()
        self._secs.assign_add(tf.maximum(came - ready, 0.0))
        return batch

    def take(self) -> float:
        """Returns the seconds since the last call, and starts over."""
        secs = float(self._secs)
        self._secs.assign(0.0)
        return secs
