"""How does an epoch run? Calls of the traced loop, their events, and the work between calls.

There is no arithmetic here: a call of the loop runs some steps, and then the workers agree on what
comes next.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfdist.checkpoint.run import Run
from tfdist.communication.presence import Presence
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals, tf_internals
from tfdist.data.feed import Feed
from tfdist.data.same_data import refuse_other_batches
from tfdist.first_step import found
from tfdist.first_step.checking import first_step_of
from tfdist.loop.loop_options import PLAIN, LoopOptions, of_source
from tfdist.loop.pacing import Stopwatch, batches_between_events, stops_at_nan_of
from tfdist.loop.programs import Programs
from tfdist.loop.while_loop import Loop
from tfdist.privacy.ledger import Ledger
from tfdist.sharding import adopting
from tfdist.step.rounds import Rounds
from tfdist.tracking.watch import Watch
from tfdist.training.checks.guard import Guard
from tfdist.training.profiling import Profiler

_WHOLE = {"steps": "whole"}  # a fact of a run, which a process that resumes it has to know


@dataclasses.dataclass(frozen=True)
class Training:
    """One call of `fit`, set up.

    Attributes:
        feed: The data.
        validation: The data to validate on, or None.
        events: The `CallbackList`.
        epochs: As in `fit`: the number of the epoch to stop before.
        initial_epoch: The epoch to begin with, from 0, unless a checkpoint says otherwise.
        validation_freq: As in `fit`.
        run: Knows where the run is, and saves it.
        guard: Checks the run while it goes on.
        options: How the loop runs through the batches.
        watch: Tells trackers of the run.
        profiler: Measures the run, or None.
        ledger: What private training spends, or None.
    """

    feed: Feed
    validation: Feed | None
    events: Any
    epochs: int
    initial_epoch: int
    validation_freq: Any
    run: Run
    guard: Guard
    options: LoopOptions
    watch: Watch
    profiler: Profiler | None = None
    ledger: Ledger | None = None

    def bounds(self) -> Sequence[Callable[[], int | None]]:
        """Returns functions that tell how many steps may run until something else is due."""
        return self.run.steps_left, lambda: self.guard.steps_left(self.run.point.step)


class Epochs:
    """Takes a model through epochs of training, and through passes of evaluation.

    Args:
        model: The model.
        programs: Its traced functions.
        workers: Of the model's strategy.
        presence: Shows the launcher that steps are being done.
    """

    def __init__(
        self, model: keras.Model, programs: Programs, workers: Workers, presence: Presence
    ) -> None:
        self._model, self._programs = model, programs
        self._workers, self._presence = workers, presence

    def train(self, training: Training) -> None:
        """Runs the epochs that are left, with validation and all events."""
        with adopting.averages_swapped(self._model, training.events.callbacks):
            self._train(training)

    def _train(self, training: Training) -> None:
        model, run, events = self._model, training.run, training.events
        profiler = training.profiler
        self._begin(training)
        stops_at_nan = self._workers.any(stops_at_nan_of(model, events))
        options = dataclasses.replace(training.options, stops_at_nan=stops_at_nan)

        def loop(iterator: Any, num_steps: int) -> int:
            now = found.as_found(model, options, "train_step")
            if now.is_whole:
                run.note(**_WHOLE)
            # A callback may have called `make_train_function(force=True)`, for a new trace.
            return self._programs.train(now)(iterator, num_steps)

        timed = profiler.timed(loop) if profiler else loop
        asked = training.guard.options
        is_checked = run.point.step and asked.check != "whole"  # by another process
        if not is_checked and not asked.local_steps and not training.ledger:
            timed = self.checked(
                timed, training.feed, check=asked.check, step="train_step", options=options
            )
        for epoch in run.point.epochs(training.epochs):
            run.leave_if_told(self._workers)
            if not run.point.done:  # otherwise an earlier process has begun the epoch
                model.reset_metrics()
                events.on_epoch_begin(epoch)
            training.watch.begin_epoch()
            self._steps(
                training.feed, timed, events, phase="train", training=training,
                rounds=self._programs.rounds(options),
            )
            logs = dict(self._programs.logs("train"))
            logs |= training.ledger.logs() if training.ledger else {}
            with profiler.left_out() if profiler else contextlib.nullcontext():
                logs |= self._validated(epoch, training)
            events.on_epoch_end(epoch, logs)
            # Before what is saved: an epoch that a kill makes run anew is told anew.
            training.watch.end_epoch(epoch, logs)
            is_over = self._workers.any(model.stop_training)
            run.end_epoch(logs, is_over=is_over, is_last=epoch + 1 == training.epochs)
            if is_over:
                break
        self._finalize(training.epochs)
        training.guard.divergence.compare(run.point.step)
        model.history.checked = found.texts(model)
        events.on_train_end(run.point.logs or None)

    def evaluate(self, feed: Feed, events: Any, *, check: str | bool) -> dict[str, Any]:
        """Returns the loss and metrics over a feed, as floats; `check` is as in `Options`."""
        self._model.stop_evaluating = False
        events.on_test_begin()
        self._model.reset_metrics()
        feed.rewind()
        options = of_source(feed.source)

        def loop(iterator: Any, num_steps: int) -> int:
            now = found.as_found(self._model, options, "test_step")
            return self._programs.test(now)(iterator, num_steps)

        loop = self.checked(loop, feed, check=check, step="test_step", options=options)
        self._steps(feed, loop, events, phase="test")
        logs = keras_internals.python_logs(self._programs.logs("test"))
        events.on_test_end(logs)
        return logs

    def checked(
        self, loop: Any, feed: Feed, *, check: str | bool, step: str, options: LoopOptions = PLAIN
    ) -> Any:
        """Returns a loop that checks its first batch, if there is something to check."""
        first = first_step_of(
            self._model, self._programs, feed.source, self._workers, check=check, step=step,
            options=options,
        )
        return first.before(loop, feed) if first else loop

    def _begin(self, training: Training) -> None:
        """Moves everything to where the run begins: its start, a checkpoint, a callback's epoch."""
        run, feed = training.run, training.feed
        self._model.stop_training = False
        if feed.source.has_all_rows and run.noted("steps") == _WHOLE["steps"]:
            given = self._model, self._workers.strategy, "train_step"
            found.note(*given, found.WHOLE, "computed whole, as before the stop")
            run.note(**_WHOLE)
        point = run.begin(
            training.events, feed=feed, validation=training.validation,
            epoch=training.initial_epoch,
        )
        restored = int(self._workers.gather(keras_internals.restored_epoch(self._model))[0, 0])
        if restored and not point.step:
            point.epoch = restored
            feed.seek(restored)
        training.guard.begin(point.step)
        if training.ledger:
            training.ledger.begin(point.step)
        training.watch.begin(feed, step=point.step)

    def _validated(self, epoch: int, training: Training) -> dict[str, Any]:
        feed, freq = training.validation, training.validation_freq
        if not feed or not keras_internals.is_validation_epoch(self._model, epoch, freq):
            return {}
        logs = self.evaluate(feed, training.events, check=training.guard.options.check)
        return {f"val_{name}": value for name, value in logs.items()}

    def _steps(
        self,
        feed: Feed,
        loop: Loop,
        events: Any,
        *,
        phase: str,
        training: Training | None = None,
        rounds: Rounds | None = None,
    ) -> None:
        """Runs an epoch's steps, with the events of each call of the traced loop around it.

        Args:
            feed: The data; read on from its present position.
            loop: Runs a number of steps on it.
            events: The `CallbackList`.
            phase: "train" or "test".
            training: In training, what is saved and checked between the calls.
            rounds: In training, the rounds that the steps are grouped into, if any.
        """
        model, stop_flag = self._model, "stop_training" if phase == "train" else "stop_evaluating"
        begin = getattr(events, f"on_{phase}_batch_begin")
        end = getattr(events, f"on_{phase}_batch_end")
        bounds = training.bounds() if training else ()
        plan = batches_between_events(model, events, phase=phase, rounds=rounds, bounds=bounds)
        plan = plan.agreed(self._workers)
        planned, done, ended = feed.begin_epoch(), training.run.point.done if training else 0, False
        loop = self._presence.ticking(loop)
        while not ended and (planned is None or done < planned):
            wanted = plan.next_steps(done, left=None if planned is None else planned - done)
            begin(done)
            with Stopwatch() as watch:
                ran = loop(feed.iterator, wanted)
            ended = ran < wanted
            if ran == 0:
                break
            logs = self._programs.logs(phase) if plan.is_watched else None
            end(done + (plan.event_steps or ran) - 1, logs)
            done += ran
            next_steps = plan.after(ran, watch.secs, done=done)
            stop, plan.steps = self._between(
                ran, bool(getattr(model, stop_flag)), next_steps, training
            )
            if stop:
                setattr(model, stop_flag, True)
                ended = False  # the loop itself may have stopped
                break
        feed.end_epoch(done, ended=ended)

    def _between(
        self, ran: int, stop: bool, steps: int, training: Training | None
    ) -> tuple[bool, int]:
        """Agrees on what comes after a call of the loop, and saves, checks or leaves.

        Args:
            ran: Steps of that call.
            stop: Whether this worker wishes to stop.
            steps: Steps that this worker wishes to run next.
            training: In training, what is saved and checked.

        Returns:
            Whether all stop, and how many steps come next.

        Raises:
            RuntimeError: The workers have read different batches.
        """
        run = training.run if training else None
        is_due = run.advance(ran) if run else False  # by this worker's clock; the chief's counts
        told = run.is_told_to_leave if run else False
        witness = self._programs.witness.value()
        compares = training.guard.divergence.is_due() if training else False
        tells = False
        if training and run:
            first = training.feed.position[1] + run.point.done - ran
            training.watch.ran(ran, first=first, step=run.point.step)
            tells = training.watch.is_due()
        rows = self._workers.gather(
            int(stop), steps, witness, int(is_due), int(told), int(compares), int(tells)
        )
        stops, wishes, witnesses, are_due, are_told, compare, tell = rows.T
        refuse_other_batches(witnesses)
        stop = bool(stops.any())
        if training and run:
            training.guard.look(run.point.step, compares=bool(compare[0]))
            if tell[0]:
                training.watch.within_epoch(self._programs.logs("train"))
            if are_told.any() and not stop:
                run.leave(self._workers)
            if are_due[0] and not stop:
                run.save()
        return stop, int(wishes.min())

    def _finalize(self, epochs: int) -> None:
        optimizer = getattr(self._model, "optimizer", None)
        if isinstance(optimizer, keras.optimizers.Optimizer) and epochs > 0:
            with tf_internals.default_replica_mode():
                optimizer.finalize_variable_values(self._model.trainable_weights)
