"""How is one step computed twice, and all put back?

From the same state and with the same draws: with its rows split over the replicas, and with all of
them on replica 0.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.data import rows as rows_lib
from tfdist.first_step.differences import Outcome, counted_logs
from tfdist.first_step.likely_cause import drawing, of_several_rows
from tfdist.first_step.rows import FirstRows
from tfdist.loop.loop_options import LoopOptions
from tfdist.loop.one_trace import OneTrace, numbers_of_python, set_numbers_of_python
from tfdist.loop.programs import Programs
from tfdist.loop.recorded import Gradients
from tfdist.step import rules, update
from tfdist.step.logs import LastLogs, flat
from tfdist.step.replicas import Batch
from tfdist.step.variables import Entry, components, entries_of


class BothWays:
    """One step, run on two splits of its rows, with all variables as they were afterwards.

    Args:
        model: The model.
        programs: Its traced functions.
        workers: All workers.
        step: "train_step", "test_step" or "predict_step".
        options: How the loop runs, which goes through the same steps afterwards.

    Attributes:
        draws: Names what draws random numbers by itself.
        several: Names draws that are taken for several rows an example.
    """

    def __init__(
        self, model: keras.Model, programs: Programs, workers: Workers, step: str,
        options: LoopOptions,
    ) -> None:
        self._model, self._programs = model, programs
        self._strategy = workers.strategy
        self._is_quiet = step == "predict_step"
        phase = step.removesuffix("_step")
        shared = None if self._is_quiet else programs.one_trace(phase, options)
        self._is_shared = shared is not None
        self._step = shared or _one_trace(model, workers, step)
        self.draws: list[str] = []
        self.several: list[str] = []

    def outcomes(
        self, rows: FirstRows, spec: Any
    ) -> tuple[dict[str, np.ndarray], Outcome, Outcome]:
        """Returns the states before the step, and what it makes of the rows whole, and split."""
        step, numbers = self._step, numbers_of_python()
        try:
            if not self._model.run_eagerly:
                for batch in (rows.split, rows.whole):
                    step.traced(_specs(batch, spec, rows))
                if self._is_shared:  # and it stays as it is now
                    numbers = numbers_of_python()
            self.several = self.several or of_several_rows(step.graphs)
            self.draws = self.draws or drawing(step.graphs, numpy_moved=step.draws_in_python)
            entries = _states(self._model)
            parts = self._parts(entries, step.graphs)
            with tf.device("/CPU:0"):
                held = [tf.identity(part.read_value()) for part in parts]
            before = self._values(entries)
            made = []
            for batch in (rows.split, rows.whole):
                try:
                    with _unoptimized():
                        ran = step.run(
                            batch.global_size, batch.sizes, batch.parts, _specs(batch, spec, rows)
                        )
                    made.append(self._outcome(entries, *ran))
                finally:
                    for part, value in zip(parts, held, strict=True):
                        part.assign(value)
                    step.recorded.forget()
        finally:
            set_numbers_of_python(numbers)
        return before, made[1], made[0]

    def _parts(self, entries: Sequence[Entry], graphs: Any) -> list[Any]:
        """Returns all variables of this worker's replicas that the step may write to."""
        own = [p for e in entries_of(self._model) for p in self._components(e.variable)]
        own += [v for graph in graphs for v in graph.variables]
        return list({id(part): part for part in own}.values())

    def _components(self, variable: Any) -> Sequence[Any]:
        return components(self._strategy, variable)

    def _values(self, entries: Sequence[Entry]) -> dict[str, np.ndarray]:
        return {
            entry.variable.path: np.stack([p.numpy() for p in self._components(entry.variable)])
            for entry in entries
        }

    def _outcome(
        self, entries: Sequence[Entry], outputs: Sequence[Any], gradients: Gradients
    ) -> Outcome:
        gradients, values = self._step.recorded.taken(gradients), self._values(entries)
        logs, hidden = {}, set()
        if not self._is_quiet:
            logs = {**flat(self._programs.logs("check")), **self._step.returned.read()}
            hidden = counted_logs(self._model)
        return Outcome(
            gradients=gradients,
            logs={
                name: np.asarray(value) for name, value in logs.items()
                if not any(name == one or name.endswith("_" + one) for one in hidden)
            },
            states={name: value for name, value in values.items() if name not in gradients},
            trained={name: value for name, value in values.items() if name in gradients},
            outputs={str(number): value.numpy() for number, value in enumerate(outputs)},
        )


def _states(model: keras.Model) -> list[Entry]:
    """Returns the variables of the model itself that hold numbers."""
    return [
        entry for entry in entries_of(model)
        if entry.name.startswith("model/") and tf.as_dtype(entry.variable.dtype) != tf.string
    ]


def _one_trace(model: keras.Model, workers: Workers, step: str) -> OneTrace:
    """Returns a step that is traced for the check alone."""
    returned, strategy = LastLogs(), workers.strategy
    if step == "predict_step":
        rule: Callable[[Batch], Any] = functools.partial(
            update.predict_step, model, strategy, of_all=True
        )
    else:
        make = rules.train_rule if step == "train_step" else rules.test_rule
        rule = make(model, strategy, returned)
    return OneTrace(
        rule, returned, num_replicas=workers.share.num_replicas, eager=model.run_eagerly
    )


def _specs(batch: Batch, spec: Any, rows: FirstRows) -> Any:
    """Returns what a trace may rely on: the number of rows too, where the data fixes it."""
    if rows.is_fixed:
        return rows_lib.spec_of(batch.parts)
    return tuple(rows_lib.open_spec(one) for one in spec)


@contextlib.contextmanager
def _unoptimized() -> Iterator[None]:
    """Leaves functions that run in a `with` block as they are traced: they run once or twice.

    TensorFlow takes as long to rewrite a graph as to trace it.
    """
    name, options = "disable_meta_optimizer", tf.config.optimizer
    before = options.get_experimental_options().get(name, False)
    options.set_experimental_options({name: True})
    try:
        yield
    finally:
        options.set_experimental_options({name: before})
