"""How is one step computed twice, and all put back?

From the same state and with the same draws: with its rows split over the replicas, and with all of
them on replica 0.
"""

from __future__ import annotations

import functools
import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.data import rows as rows_lib
from tfdist.first_step.differences import Outcome, counted_logs
from tfdist.first_step.likely_cause import drawing, of_several_rows
from tfdist.first_step.recorded import Recorded
from tfdist.first_step.rows import FirstRows
from tfdist.loop.programs import Programs
from tfdist.step import rules, update
from tfdist.step.logs import LastLogs, flat
from tfdist.step.replicas import Batch
from tfdist.step.variables import Entry, components, entries_of


class BothWays:
    """One step, run on two splits of its rows, with all variables as they were afterwards.

    Attributes:
        draws: Names what draws random numbers by itself.
        several: Names draws that are taken for several rows an example.
    """

    def __init__(
        self, model: keras.Model, programs: Programs, workers: Workers, step: str
    ) -> None:
        self._model, self._programs = model, programs
        self._strategy = workers.strategy
        self._recorded, self._returned = Recorded(), LastLogs()
        if step == "predict_step":
            predict = functools.partial(update.predict_step, model, workers.strategy, of_all=True)
            self._rule: Callable[[Batch], Any] = predict
        else:
            rule = rules.train_rule if step == "train_step" else rules.test_rule
            self._rule = rule(model, workers.strategy, self._returned)
        self._is_quiet = step == "predict_step"
        self._traced: dict[str, Any] = {}
        self.draws: list[str] = []
        self.several: list[str] = []

    def outcomes(
        self, rows: FirstRows, spec: Any
    ) -> tuple[dict[str, np.ndarray], Outcome, Outcome]:
        """Returns the states before the step, and what it makes of the rows whole, and split."""
        numbers = _numbers()
        try:
            steps = [self._step(batch, spec, rows) for batch in (rows.split, rows.whole)]
            moved = pickle.dumps(_numbers()) != pickle.dumps(numbers)
            graphs = {id(s.graph): s.graph for s in steps if hasattr(s, "graph")}
            self.several = self.several or of_several_rows(list(graphs.values()))
            self.draws = self.draws or drawing(list(graphs.values()), numpy_moved=moved)
            entries = _states(self._model)
            parts = self._parts(entries, graphs.values())
            with tf.device("/CPU:0"):
                held = [tf.identity(part.read_value()) for part in parts]
            before = self._values(entries)
            made = []
            for step, batch in zip(steps, (rows.split, rows.whole), strict=True):
                try:
                    outputs = step(batch.global_size, batch.sizes, batch.parts)
                    made.append(self._outcome(entries, outputs))
                finally:
                    for part, value in zip(parts, held, strict=True):
                        part.assign(value)
                    self._recorded.forget()
        finally:
            _set_numbers(numbers)
        return before, made[1], made[0]

    def _step(self, batch: Batch, spec: Any, rows: FirstRows) -> Callable[..., Any]:
        def run(size: Any, sizes: Any, parts: Any) -> list[tf.Tensor]:
            with self._recorded.recording():
                outputs = self._rule(Batch(size, tuple(parts), sizes))
            leaves = [leaf for leaf in keras.tree.flatten(outputs) if leaf is not None]
            return tf.nest.flatten(leaves, expand_composites=True)

        if self._model.run_eagerly:
            return run
        opened = tuple(rows_lib.open_spec(one) for one in spec)
        specs = rows_lib.spec_of(batch.parts) if rows.is_fixed else opened
        key = repr(specs)
        if key not in self._traced:
            numbers = tf.TensorSpec([], tf.int32), tf.TensorSpec([None], tf.int32)
            traced = tf.function(run, autograph=False)
            self._traced[key] = traced.get_concrete_function(*numbers, specs)
        return self._traced[key]

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

    def _outcome(self, entries: Sequence[Entry], outputs: Sequence[Any]) -> Outcome:
        gradients, values = self._recorded.take(), self._values(entries)
        logs, hidden = {}, set()
        if not self._is_quiet:
            logs = {**flat(self._programs.logs("check")), **self._returned.read()}
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


def _numbers() -> tuple[Any, Any]:
    """Returns the states of Python's and NumPy's generators, from which a trace may draw."""
    return random.getstate(), np.random.get_state()


def _set_numbers(states: tuple[Any, Any]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
