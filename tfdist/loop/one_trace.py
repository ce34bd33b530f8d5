"""How does a loop share the trace of its step with the check of the first one?

To trace a step with code of its own takes longer than anything else in a first `fit`. So it is
traced by itself, with the rows of each replica as an argument: the check calls that, with all rows
on one replica and split, and the loop has a call of it in its body.
"""

from __future__ import annotations

import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.share import bounds
from tfdist.data import rows as rows_lib
from tfdist.loop.recorded import Gradients, Recorded
from tfdist.step.logs import LastLogs
from tfdist.step.replicas import Batch


class OneTrace:
    """A step that is traced once for each shape of a batch, whoever runs it.

    Args:
        rule: The step, of one global batch; runs in cross-replica context.
        returned: What it keeps of its logs.
        num_replicas: Replicas of all workers together.
        eager: Whether it runs without a trace, as `run_eagerly` asks.

    Attributes:
        returned: As given.
        recorded: The gradients that it applied.
        graphs: Those of its traces.
        draws_in_python: Whether a trace drew from Python's or NumPy's generators.
    """

    def __init__(
        self, rule: Callable[[Batch], Any], returned: LastLogs, *, num_replicas: int,
        eager: bool = False,
    ) -> None:
        self._rule, self._num_replicas, self._eager = rule, num_replicas, eager
        self._traced: dict[str, Any] = {}
        self.returned, self.recorded = returned, Recorded()
        self.graphs: list[Any] = []
        self.draws_in_python = False

    def __call__(self, batch: Batch) -> None:
        """Runs the step on a batch, which is split as `sizes` says, or evenly."""
        sizes = batch.sizes
        if sizes is None:
            replicas = tf.range(self._num_replicas)
            start, stop = bounds(batch.global_size, replicas, self._num_replicas)
            sizes = stop - start
        self.run(batch.global_size, sizes, batch.parts, rows_lib.spec_of(batch.parts))

    def run(
        self, size: Any, sizes: Any, parts: Sequence[Any], specs: Any
    ) -> tuple[list[tf.Tensor], Gradients]:
        """Runs the step.

        Args:
            size: Rows of the global batch; int32 scalar.
            sizes: Those of each replica; int32 of shape `(num_replicas,)`.
            parts: The rows of each replica of this worker.
            specs: What of `parts` the trace may rely on.

        Returns:
            The tensors of its outputs, and the gradients that it applied, see `Recorded`.
        """
        step = self._of if self._eager else self.traced(specs)
        outputs, gradients = step(size, sizes, parts)
        return outputs, gradients

    def traced(self, specs: Any) -> Callable[..., Any]:
        """Returns the trace for batches of these specs."""
        key = repr(specs)
        if key not in self._traced:
            numbers = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32)
            before = pickle.dumps(numbers_of_python())
            with tf.init_scope():  # not inside of the loop that needs it first
                function = tf.function(self._of, autograph=False)
                made = function.get_concrete_function(*numbers, specs)
            self._traced[key] = made
            self.graphs.append(made.graph)
            self.draws_in_python |= pickle.dumps(numbers_of_python()) != before
        return self._traced[key]

    def _of(self, size: Any, sizes: Any, parts: Any) -> tuple[list[tf.Tensor], Gradients]:
        with self.recorded.recording() as gradients:
            outputs = self._rule(Batch(size, tuple(parts), sizes))
        leaves = [leaf for leaf in keras.tree.flatten(outputs) if leaf is not None]
        return tf.nest.flatten(leaves, expand_composites=True), gradients


def numbers_of_python() -> tuple[Any, Any]:
    """Returns the states of Python's and NumPy's generators, from which a trace may draw."""
    return random.getstate(), np.random.get_state()


def set_numbers_of_python(states: tuple[Any, Any]) -> None:
    """Sets what `numbers_of_python` returned."""
    random.setstate(states[0])
    np.random.set_state(states[1])
