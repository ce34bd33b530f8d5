"""Does the first step mean the same with its rows split over the replicas as whole on one?

Where a model has code that is not Keras's, nobody can read off what it means for a part of a batch:
a sum of its rows looks like a mean. But it can be tried. The step is computed twice, from the same
state and with the same draws: split, and with all rows on replica 0, which is what one device
computes. Then all variables are put back, and training begins, if the two agree.
"""

from __future__ import annotations

import functools
import logging
import pickle
import random
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.compat.notes import note_of, set_note
from tfdist.data import rows as rows_lib
from tfdist.data.arrays import Cursor
from tfdist.data.errors import told_plainly
from tfdist.data.feed import Feed
from tfdist.global_batch import batch_norm
from tfdist.loop.programs import Programs
from tfdist.loop.while_loop import Loop
from tfdist.step import rules
from tfdist.step.first_rows import FirstRows, first_rows
from tfdist.step.logs import LastLogs, flat
from tfdist.step.own_code import own_code
from tfdist.step.recorded import Recorded
from tfdist.step.replicas import Batch
from tfdist.step.variables import Entry, entries_of, value_of
from tfdist.training.first_differences import (
    Outcome,
    counted_logs,
    first_difference,
    precision_of,
)
from tfdist.training.likely_cause import Found, cause, drawing
from tfdist.training.options import Options

_LOG = logging.getLogger("tfdist")
_TEXT_BYTES = 2048


def first_step_of(
    model: keras.Model, programs: Programs, feed: Feed, workers: Workers, options: Options
) -> FirstStep | None:
    """Returns the check of a run's first step; None where there is nothing that it could find.

    With one replica nothing is split. Keras's own parts are known, and so is a step that was found
    right since `compile`. A `replica_step` says by itself what its shares add up to, and works on
    variables that are not known here. Local steps and a plain BatchNormalization differ from one
    device by definition. And where lengths are padded to buckets, or XLA compiles each trace for a
    TPU, a further trace is too dear.
    """
    padding = feed.source.padding
    if not options.check or workers.share.num_replicas == 1:
        return None
    if options.local_steps or (padding is not None and padding.lengths is not None):
        return None
    if batch_norm.plain_batch_normalizations(model) or _is_checked(model):
        return None
    code = own_code(model)
    return FirstStep(model, programs, feed, workers, options, code) if code else None


class FirstStep:
    """The check of one run; see `first_step_of`, which makes it.

    Args:
        model: The model.
        programs: Its traced functions.
        feed: The data.
        workers: All workers.
        options: Of `fit`.
        code: Names of the model's own code.
    """

    def __init__(
        self, model: keras.Model, programs: Programs, feed: Feed, workers: Workers,
        options: Options, code: Sequence[str],
    ) -> None:
        self._model, self._programs, self._feed, self._workers = model, programs, feed, workers
        self._check_option, self._code, self._is_done = options.check, code, False

    def before(self, loop: Loop) -> Loop:
        """Returns a loop that checks its first batch, before it trains on it as on any other."""

        def run(iterator: Any, wanted: int) -> int:
            if self._is_done or wanted < 1:
                return loop(iterator, wanted)
            self._is_done = True
            if isinstance(iterator, Cursor):
                gathering = iterator.arrays.gathering
                number = tf.constant(iterator.batch, tf.int64)
                with tf.device("/CPU:0"):
                    element = gathering.batch(iterator.arrays.tensors, iterator.order, number)
                self._check(element, (gathering.spec,) * len(element[1]))
                return loop(iterator, wanted)
            batch = iterator.get_next_as_optional()
            has_batch = bool(batch.has_value())
            if not self._workers.any(not has_batch):
                self._check(batch.get_value(), iterator.element_spec[1])
            if not has_batch:
                return loop(iterator, wanted)
            ran = loop(self._feed.reading_again(batch.get_value()), 1)
            return ran + loop(iterator, wanted - 1) if ran and wanted > 1 else ran

        return told_plainly()(run)

    def _check(self, element: Any, spec: Any) -> None:
        twice = _Twice(self._model, self._programs, self._workers)
        source, workers = self._feed.source, self._workers
        rows = first_rows(element, spec, source, workers)
        found = self._difference(twice, rows, spec)
        if rows is None or not workers.any(found is not None):
            set_note(self._model, "checked", _compiled(self._model))
            return
        # What unequal parts blur, equal ones show: a factor, say.
        even = first_rows(element, spec, source, workers, evenly=True)
        found_evenly = self._difference(twice, even, spec) if even else None
        text = self._told(
            self._sentence(found, rows, found_evenly, twice.draws) if found else ""
        )
        if self._check_option == "warn":
            _LOG.warning("%s", text)
            set_note(self._model, "checked", _compiled(self._model))
            return
        raise ValueError(text)

    def _difference(self, twice: _Twice, rows: FirstRows | None, spec: Any) -> Found | None:
        """Computes the step both ways; returns what differs, or None."""
        if rows is None:
            _LOG.warning(
                "The first step was not checked, since the workers' examples are of different "
                "lengths, and cannot be put on one replica."
            )
            return None
        try:
            before, whole, split = twice.outcomes(rows, spec)
        except Exception as error:
            if self._workers.has_others:  # which wait in the same step
                raise
            _LOG.warning(
                "The first step was not checked, since it fails where all of its rows are on one "
                "replica, or their number is open: %s", str(error).strip().partition("\n")[0],
            )
            return None
        return first_difference(before, whole, split, precision=precision_of(self._model))

    def _sentence(
        self, found: Found, rows: FirstRows, evenly: Found | None, draws: Sequence[str]
    ) -> str:
        total = self._workers.share.num_replicas
        split, whole = found.values
        kind = {"gradient": "gradient of", "state": "change of", "log": "log"}[found.group]
        told = cause(found, evenly, replicas=total, code=self._code, draws=draws)
        return (
            f"The first step is not one device's: with its {rows.count} rows split over {total} "
            f"replicas, the {kind} {found.name!r} is {split:.6g} instead of {whole:.6g}. Likely "
            f"cause: {told} To train nevertheless, with these numbers, pass check=False."
        )

    def _told(self, own: str) -> str:
        """Returns the text of the first worker that has one, on all of them."""
        if not self._workers.has_others:
            return own
        local = self._workers.share.local_replicas
        row = np.frombuffer(own.encode()[:_TEXT_BYTES].ljust(_TEXT_BYTES), np.uint8)
        rows = self._workers.rows(np.tile(row, (local, 1)))
        texts = [one.tobytes().decode(errors="replace").strip() for one in rows]
        return next(text for text in texts if text)


class _Twice:
    """One step, run on two splits of its rows, with all variables as they were afterwards.

    Attributes:
        draws: Names what draws random numbers by itself.
    """

    def __init__(self, model: keras.Model, programs: Programs, workers: Workers) -> None:
        self._model, self._programs = model, programs
        self._strategy = workers.strategy
        self._recorded, self._returned = Recorded(), LastLogs()
        self._rule = rules.train_rule(model, workers.strategy, self._returned)
        self._traced: dict[str, Any] = {}
        self.draws: list[str] = []

    def outcomes(
        self, rows: FirstRows, spec: Any
    ) -> tuple[dict[str, np.ndarray], Outcome, Outcome]:
        """Returns the states before the step, and what it makes of the rows whole, and split."""
        numbers = _numbers()
        try:
            steps = [self._step(batch, spec, rows) for batch in (rows.split, rows.whole)]
            moved = pickle.dumps(_numbers()) != pickle.dumps(numbers)
            graphs = {id(s.graph): s.graph for s in steps if hasattr(s, "graph")}
            self.draws = self.draws or drawing(list(graphs.values()), numpy_moved=moved)
            entries = _states(self._model)
            parts = self._parts(entries, graphs.values())
            with tf.device("/CPU:0"):
                held = [tf.identity(part.read_value()) for part in parts]
            before = self._values(entries)
            made = []
            for step, batch in zip(steps, (rows.split, rows.whole), strict=True):
                try:
                    step(batch.global_size, batch.sizes, batch.parts)
                    made.append(self._outcome(entries))
                finally:
                    for part, value in zip(parts, held, strict=True):
                        part.assign(value)
                    self._recorded.forget()
        finally:
            _set_numbers(numbers)
        return before, made[1], made[0]

    def _step(self, batch: Batch, spec: Any, rows: FirstRows) -> Callable[..., Any]:
        def run(size: Any, sizes: Any, parts: Any) -> None:
            with self._recorded.recording():
                self._rule(Batch(size, tuple(parts), sizes))

        if self._model.run_eagerly:
            return run
        opened = tuple(rows_lib.open_spec(one) for one in spec)
        of_parts = functools.partial(keras.tree.map_structure, tf.type_spec_from_value)
        specs = of_parts(batch.parts, none_is_leaf=False) if rows.is_fixed else opened
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
        return self._strategy.experimental_local_results(value_of(variable))

    def _values(self, entries: Sequence[Entry]) -> dict[str, np.ndarray]:
        return {
            entry.variable.path: np.stack([p.numpy() for p in self._components(entry.variable)])
            for entry in entries
        }

    def _outcome(self, entries: Sequence[Entry]) -> Outcome:
        gradients, values = self._recorded.take(), self._values(entries)
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
        )


def _compiled(model: keras.Model) -> tuple[Any, Any]:
    """Returns what `compile` makes anew."""
    return model.optimizer, keras_internals.loss_tracker(model)


def _is_checked(model: keras.Model) -> bool:
    checked = note_of(model, "checked", (None, None))
    return all(one is other for one, other in zip(checked, _compiled(model), strict=True))


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
