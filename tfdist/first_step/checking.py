"""Does the first step mean the same with its rows split over the replicas as whole on one?

Where a model has code that is not Keras's, nobody can read off what it means for a part of a batch:
a sum of its rows looks like a mean. But it can be tried. The step is computed twice, from the same
state and with the same draws: split, and with all rows on replica 0, which is what one device
computes. Then all variables are put back, and training begins, if the two agree.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.compat.notes import note_of, set_note
from tfdist.data.arrays import Cursor
from tfdist.data.errors import told_plainly
from tfdist.data.feed import Feed
from tfdist.first_step.both_ways import BothWays
from tfdist.first_step.differences import first_difference, precision_of
from tfdist.first_step.likely_cause import Found, cause
from tfdist.first_step.rows import FirstRows, first_rows
from tfdist.global_batch import batch_norm
from tfdist.loop.programs import Programs
from tfdist.loop.while_loop import Loop
from tfdist.step.own_code import own_code

_LOG = logging.getLogger("tfdist")
_STEPS = ("train_step", "test_step")


def first_step_of(
    model: keras.Model, programs: Programs, feed: Feed, workers: Workers, *,
    check: str | bool, step: str = "train_step",
) -> FirstStep | None:
    """Returns the check of a run's first step; None where there is nothing that it could find.

    With one replica nothing is split. Keras's own parts are known, and so is a step that was found
    right since `compile`. A `replica_step` says by itself what its shares add up to, and works on
    variables that are not known here. Local steps and a plain BatchNormalization differ from one
    device by definition. And where lengths are padded to buckets, or XLA compiles each trace for a
    TPU, a further trace is too dear.

    Args:
        model: The model, built.
        programs: Its traced functions.
        feed: The data.
        workers: All workers.
        check: As in `Options`.
        step: "train_step", or "test_step" where a run evaluates.
    """
    padding = feed.source.padding
    if not check or workers.share.num_replicas == 1:
        return None
    if padding is not None and padding.lengths is not None:
        return None
    is_training = step == "train_step"
    if is_training and batch_norm.plain_batch_normalizations(model):
        return None
    known = [step] if is_training or keras_internals.overrides(model, step) else _STEPS
    if any(_is_checked(model, one) for one in known):
        return None
    code = own_code(model, step=step)
    if not code:
        return None
    return FirstStep(model, programs, feed, workers, check=check, step=step, code=code)


class FirstStep:
    """The check of one run; see `first_step_of`, which makes it.

    Args:
        model: The model.
        programs: Its traced functions.
        feed: The data.
        workers: All workers.
        check: "raise" or "warn".
        step: "train_step" or "test_step".
        code: Names of the model's own code.
    """

    def __init__(
        self, model: keras.Model, programs: Programs, feed: Feed, workers: Workers, *,
        check: str | bool, step: str, code: Sequence[str],
    ) -> None:
        self._model, self._programs, self._feed, self._workers = model, programs, feed, workers
        self._check_option, self._step, self._code = check, step, code
        self._is_done = False

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
        twice = BothWays(self._model, self._programs, self._workers, self._step)
        source, workers = self._feed.source, self._workers
        rows = first_rows(element, spec, source, workers)
        found = self._difference(twice, rows, spec)
        if rows is None or not workers.any(found is not None):
            _set_checked(self._model, self._step)
            return
        # What unequal parts blur, equal ones show: a factor, say.
        even = first_rows(element, spec, source, workers, evenly=True)
        found_evenly = self._difference(twice, even, spec) if even else None
        text = self._told(
            self._sentence(found, rows, found_evenly, twice.draws) if found else ""
        )
        if self._check_option == "warn":
            _LOG.warning("%s", text)
            _set_checked(self._model, self._step)
            return
        raise ValueError(text)

    def _difference(self, twice: BothWays, rows: FirstRows | None, spec: Any) -> Found | None:
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
            f"cause: {told} To go on nevertheless, with these numbers, pass check=False "
            "(tfdist run: --check=off)."
        )

    def _told(self, own: str) -> str:
        """Returns the text of the first worker that has one, on all of them."""
        return next(text for text in self._workers.payloads(own.encode()) if text).decode()


def _compiled(model: keras.Model) -> tuple[Any, Any]:
    """Returns what `compile` makes anew."""
    return model.optimizer, keras_internals.loss_tracker(model)


def _is_checked(model: keras.Model, step: str) -> bool:
    checked = note_of(model, "checked", {}).get(step, (None, None))
    return all(one is other for one, other in zip(checked, _compiled(model), strict=True))


def _set_checked(model: keras.Model, step: str) -> None:
    set_note(model, "checked", {**note_of(model, "checked", {}), step: _compiled(model)})
