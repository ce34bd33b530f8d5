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
from tfdist.data.arrays import Cursor
from tfdist.data.errors import told_plainly
from tfdist.data.feed import Feed
from tfdist.data.source import Source
from tfdist.first_step import found as found_lib
from tfdist.first_step.both_ways import BothWays
from tfdist.first_step.differences import first_difference, precision_of
from tfdist.first_step.likely_cause import Found, cause
from tfdist.first_step.rows import FirstRows, first_rows, rankings_of
from tfdist.global_batch import batch_norm
from tfdist.loop.loop_options import PLAIN, LoopOptions
from tfdist.loop.programs import Programs
from tfdist.step import whole
from tfdist.step.own_code import own_code
from tfdist.step.replicas import Batch

_LOG = logging.getLogger("tfdist")
_STEPS = ("train_step", "test_step", "predict_step")


def first_step_of(
    model: keras.Model, programs: Programs, source: Source, workers: Workers, *,
    check: str | bool, step: str = "train_step", options: LoopOptions = PLAIN,
) -> FirstStep | None:
    """Returns the check of a run's first step; None where there is nothing that it could find.

    With one replica nothing is split. Keras's own parts are known, and so is a step that was found
    right, or is computed whole, since `compile`. A `replica_step` says by itself what its shares
    add up to, and works on variables that are not known here. Local steps differ from one device by
    definition, and so does a plain BatchNormalization, which with "whole" is reason enough. And
    where lengths are padded to buckets, or XLA compiles each trace for a TPU, a further trace is
    too dear.

    Args:
        model: The model, built.
        programs: Its traced functions.
        source: The data.
        workers: All workers.
        check: As in `Options`.
        step: "train_step", or "test_step" or "predict_step" where a run evaluates or predicts.
        options: How the loop runs, which goes through the same steps afterwards.
    """
    padding = source.padding
    if not check or workers.share.num_replicas == 1:
        return None
    if padding is not None and padding.lengths is not None:
        return None
    plain = batch_norm.plain_batch_normalizations(model) if step == "train_step" else []
    if plain and check != "whole":
        return None
    if _is_known(model, step, check=check, data=found_lib.data_of(source.spec)):
        return None
    code = own_code(model, step=step)
    if not code and not plain:
        return None
    return FirstStep(
        model, programs, source, workers, check=check, step=step, code=code, plain=plain,
        options=options,
    )


def _is_known(model: keras.Model, step: str, *, check: str | bool, data: str) -> bool:
    """Tells whether a step, or another one that computes the same, was checked on such data."""
    if found_lib.is_settled(model, step, check, data=data):
        return True
    others: list[str] = []
    if step == "test_step" and not keras_internals.overrides(model, step):
        others = ["train_step"]
    elif step == "predict_step" and not keras_internals.overrides(model, step):
        others = [one for one in _STEPS if not keras_internals.overrides(model, one)]
    enough = (found_lib.ALIKE, found_lib.DIFFERS) if check == "warn" else (found_lib.ALIKE,)
    known = [v for v in (found_lib.verdict(model, one) for one in others) if v is not None]
    return any(v.kind in enough and (step == "predict_step" or data in v.data) for v in known)


class FirstStep:
    """The check of one run; see `first_step_of`, which makes it.

    Args:
        model: The model.
        programs: Its traced functions.
        source: The data.
        workers: All workers.
        check: "raise", "warn" or "whole".
        step: "train_step", "test_step" or "predict_step".
        code: Names of the model's own code.
        plain: Names of normalizations that differ by definition; only with "whole".
        options: How the loop runs afterwards.
    """

    def __init__(
        self, model: keras.Model, programs: Programs, source: Source, workers: Workers, *,
        check: str | bool, step: str, code: Sequence[str], plain: Sequence[str] = (),
        options: LoopOptions = PLAIN,
    ) -> None:
        self._model, self._programs, self._source, self._workers = model, programs, source, workers
        self._option, self._step, self._code, self._plain = check, step, code, plain
        self._options, self._failure = options, ""

    def before(self, loop: Any, feed: Feed) -> Any:
        """Returns a loop that checks its first batch, before it goes through it as any other.

        Args:
            loop: Returns how many batches it went through, or that and their outputs.
            feed: What it goes through.
        """
        is_done = False

        def run(iterator: Any, wanted: int) -> Any:
            nonlocal is_done
            if is_done or wanted < 1:
                return loop(iterator, wanted)
            is_done = True
            if isinstance(iterator, Cursor):
                gathering = iterator.arrays.gathering
                number = tf.constant(iterator.batch, tf.int64)
                with tf.device("/CPU:0"):
                    element = gathering.batch(iterator.arrays.tensors, iterator.order, number)
                self.check(element, gathering.spec)
                return loop(iterator, wanted)
            batch = iterator.get_next_as_optional()
            has_batch = bool(batch.has_value())
            if not self._workers.any(not has_batch):
                self.check(batch.get_value(), iterator.element_spec[1][0])
            if not has_batch:
                return loop(iterator, wanted)
            first = loop(feed.reading_again(batch.get_value()), 1)
            if wanted == 1 or not _number(first):
                return first
            return _together(first, loop(iterator, wanted - 1))

        return told_plainly()(run)

    def check(self, element: Any, spec: Any) -> None:
        """Checks the step on a batch, and acts on what it finds.

        Args:
            element: What a source's stream gives, of this worker: `(size, parts, ...)`.
            spec: The spec of a part.

        Raises:
            ValueError: The step differs, and `check` is "raise".
        """
        share = self._workers.share
        if self._source.has_all_rows:
            size, parts, *_ = element
            element = size, whole.split(Batch(size, parts), share).parts
        text = (
            f"{', '.join(self._plain)} normalizes the rows that one replica has by their own mean "
            "and variance." if self._plain
            else self._found(element, (spec,) * share.local_replicas)
        )
        if text:
            self._act_on(text)
        elif self._failure:
            self._note(found_lib.NOTHING, self._failure)
        else:
            self._note(found_lib.ALIKE, "the first one agrees with one device's")

    def _act_on(self, text: str) -> None:
        """Raises a ValueError that says what was found, or says it and goes on."""
        if self._option == "raise":
            raise ValueError(
                f"{text} To go on nevertheless, pass check='whole', which computes every step on "
                "all rows, with one device's numbers and speed, or check=False (tfdist run: "
                "--check=whole, --check=off)."
            )
        if self._option == "warn":
            self._note(found_lib.DIFFERS, text)
            _LOG.warning("%s To get one device's numbers, pass check='whole'.", text)
            return
        self._note(found_lib.WHOLE, f"computed whole, since: {text}")
        _LOG.warning(
            "%s So every %s is computed whole, on all rows by each of the %d replicas: with one "
            "device's numbers, and no faster than it.",
            text, self._step, self._workers.share.num_replicas,
        )

    def _note(self, kind: str, text: str) -> None:
        found_lib.note(
            self._model, self._workers.strategy, self._step, kind, text,
            data=found_lib.data_of(self._source.spec),
        )

    def _found(self, element: Any, spec: Any) -> str:
        """Returns what differs, or why it must be taken for different; "" where nothing does."""
        twice = BothWays(
            self._model, self._programs, self._workers, self._step, self._options
        )
        source, workers = self._source, self._workers
        numbers = None
        rows = first_rows(element, spec, source, workers)
        found = self._difference(twice, rows, spec)
        if self._failure and self._option == "whole":
            return self._failure
        if rows is None or self._failure:
            return ""
        ranked = rankings_of(element, source, workers)
        while not workers.any(found is not None):
            if (numbers := next(ranked, None)) is None:
                return ""
            others = first_rows(element, spec, source, workers, numbers=numbers)
            if others is not None:
                rows, found = others, self._difference(twice, others, spec, is_further=True)
        # What unequal parts blur, equal ones show: a factor, say.
        even = first_rows(element, spec, source, workers, evenly=True, numbers=numbers)
        found_evenly = self._difference(twice, even, spec) if even else None
        return self._told(self._sentence(found, rows, found_evenly, twice) if found else "")

    def _difference(
        self, twice: BothWays, rows: FirstRows | None, spec: Any, *, is_further: bool = False
    ) -> Found | None:
        """Computes the step both ways; returns what differs, or None.

        Args:
            twice: Computes it.
            rows: Which rows it gets.
            spec: The specs of a part.
            is_further: Whether no batch of the data has its rows in this order, so that a step that
                fails for them (a replica without a class, say) says nothing.
        """
        if rows is None:
            self._fail(
                "the workers' examples are of different lengths, and cannot be put on one replica."
            )
            return None
        try:
            before, of_one, of_all = twice.outcomes(rows, spec)
        except Exception as error:
            # What a trace raises is raised on all workers; else the others wait in the same step.
            is_alike = self._option == "whole" and not isinstance(error, tf.errors.OpError)
            if self._workers.has_others and not is_alike:
                raise
            if is_further:
                return None
            first_line, *_ = str(error).strip().splitlines() or [type(error).__name__]
            self._fail(
                "it fails where all of its rows are on one replica, or their number is open: "
                f"{first_line}"
            )
            return None
        return first_difference(before, of_one, of_all, precision=precision_of(self._model))

    def _fail(self, why: str) -> None:
        self._failure = f"The first step was not checked, since {why}"
        if self._option != "whole":
            _LOG.warning("%s", self._failure)

    def _sentence(
        self, found: Found, rows: FirstRows, evenly: Found | None, twice: BothWays
    ) -> str:
        total = self._workers.share.num_replicas
        split, whole = found.values
        kind = {"gradient": "gradient of", "state": "change of"}.get(found.group, found.group)
        told = cause(
            found, evenly, replicas=total, code=self._code, draws=twice.draws,
            several=twice.several,
        )
        return (
            f"The first step is not one device's: with its {rows.count} rows split over {total} "
            f"replicas, the {kind} {found.name!r} is {split:.6g} instead of {whole:.6g}. Likely "
            f"cause: {told}"
        )

    def _told(self, own: str) -> str:
        """Returns the text of the first worker that has one, on all of them."""
        return next(text for text in self._workers.payloads(own.encode()) if text).decode()


def _number(ran: Any) -> int:
    """Returns how many batches a loop went through."""
    return int(ran[0] if isinstance(ran, tuple) else ran)


def _together(first: Any, rest: Any) -> Any:
    """Adds up what a loop returned for the first batch, and for the next ones."""
    if isinstance(first, tuple):
        return tuple(one + other for one, other in zip(first, rest, strict=True))
    return first + rest
