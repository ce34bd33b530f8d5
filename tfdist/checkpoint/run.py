"""How does `fit` go on where the last one ended, and when does it save?

A run is always at some point: an epoch, and a number of steps in it. `Run` keeps this `RunPoint`,
saves it with everything else when a save is due, and brings a new process back to it. A run that
saves nothing has the same methods, which then only keep the point. In one file, since every method
asks where the run is.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import secrets
import signal
import time
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.checkpoint import plain_values, preemption, rng_state, same_run
from tfdist.checkpoint.callback_state import CallbackState
from tfdist.checkpoint.checkpointer import Checkpointer
from tfdist.checkpoint.contents import OF_BUFFERS, OF_CALLBACKS, Saved
from tfdist.checkpoint.interval import parse_every
from tfdist.cluster import contract
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.data.feed import Feed
from tfdist.step import variables

_LOG = logging.getLogger("tfdist")
_IN_NO_ORDER = (
    "After a stop in mid-epoch some examples are used twice and others not at all: the data comes "
    "in another order each time it is read. Give every random part of it a seed."
)


@dataclasses.dataclass
class RunPoint:
    """Where a run is.

    Attributes:
        epoch: The epoch that is being run, or comes next; from 0.
        done: Steps of it that are done; 0 before it has begun.
        step: Steps of the whole run that are done.
        is_over: Whether a callback ended the training.
        logs: Of the last epoch that was finished.
    """

    epoch: int
    done: int = 0
    step: int = 0
    is_over: bool = False
    logs: dict[str, float] = dataclasses.field(default_factory=dict)

    def epochs(self, until: int) -> range:
        """Returns the epochs that are left."""
        return range(self.epoch, self.epoch if self.is_over else until)


class Run:
    """One training run, over all the processes that it takes.

    Args:
        model: The model that is trained.
        checkpoint: Folder of the checkpoints, or a Checkpointer, or None for not saving.
        save_every: Steps or a time, as `interval.parse_every` reads it; None for each epoch's end.
        encrypt_to: As in `Checkpointer`.

    Raises:
        ValueError: An argument is invalid.
    """

    def __init__(self, model: keras.Model, checkpoint: Any, *, save_every: Any = None,
        encrypt_to: Any = None,
    ) -> None:
        if save_every is not None and checkpoint is None:
            raise ValueError(
                f"save_every={save_every!r} was given without a checkpoint_dir. Give both."
            )
        if encrypt_to is not None and (checkpoint is None or isinstance(checkpoint, Checkpointer)):
            raise ValueError(
                "encrypt_to was given without a folder in checkpoint_dir. Give both, or "
                "tfdist.Checkpointer(folder, encrypt_to=...)."
            )
        self._model = model
        self._every = parse_every(save_every)
        self._is_by_epoch = save_every is None
        self._is_own = not isinstance(checkpoint, Checkpointer)
        self._checkpointer: Checkpointer | None = checkpoint
        if self._is_own and checkpoint is not None:
            self._checkpointer = Checkpointer(checkpoint, encrypt_to=encrypt_to)
        self._saved: Saved | None = None
        self._facts: dict[str, Any] = {}
        self._feeds: dict[str, Feed] = {}
        self._notice = preemption.Notice()
        self._stack = contextlib.ExitStack()
        self.point = RunPoint(0)

    def __enter__(self) -> Run:
        is_wanted = self._checkpointer is not None
        self._notice = self._stack.enter_context(preemption.notices(is_wanted=is_wanted))
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        with self._stack:  # signals last: a write that has begun is finished first
            self._close(error)

    def _close(self, error: Any) -> None:
        checkpointer = self._checkpointer
        if checkpointer is None:
            return
        try:
            checkpointer.close() if self._is_own else checkpointer.wait()
        except RuntimeError as failure:
            if error is None:
                raise
            _LOG.error("%s", failure)  # the error that ended the training is the one to raise

    @property
    def is_encrypted(self) -> bool:
        """Whether only holders of a key can read its checkpoints."""
        return self._checkpointer is not None and self._checkpointer.is_encrypted

    def seed(self, workers: Workers) -> int:
        """Looks for a checkpoint; returns the seed of its run, or a new one.

        Raises:
            ValueError: The given seed is not the one in the checkpoint.
            RuntimeError: There are checkpoints, but all of them are damaged.
        """
        if self._checkpointer is None:
            return _seed(workers)
        if getattr(self._model, "optimizer", None) is None:
            raise ValueError(
                "checkpoint_dir was given, but the model has no optimizer that could be saved. "
                "Call model.compile with the optimizer that the training rule uses."
            )
        self._checkpointer.bind(self._model)
        self._saved = self._checkpointer.load()
        if self._saved is None:
            seed = _seed(workers)
        else:
            self._saved.refuse(same_run.lacks(self._saved.facts, self._saved.plain))
            seed = int(self._saved.facts["run"]["seed"])
            given = keras_internals.random_seed()
            if given not in (None, seed):
                self._saved.refuse([f"seed: {seed} in the checkpoint, {given} here"])
        self._facts["seed"] = seed
        return seed

    def note(self, **facts: Any) -> None:
        """Records facts that must be the same when the run is resumed: plain values."""
        self._facts |= json.loads(json.dumps(facts))

    def noted(self, name: str) -> Any:
        """Returns the fact of this name that the resumed run has recorded, or None.

        It is the same on all workers.
        """
        return None if self._saved is None else self._saved.facts["run"].get(name)

    def begin(self, callbacks: Any, *, feed: Feed, validation: Feed | None, epoch: int) -> RunPoint:
        """Begins training, and brings everything to the state of the checkpoint.

        Args:
            callbacks: The `CallbackList`; its `on_train_begin` is called here, and the
                `on_epoch_begin` of an epoch that was left in the middle.
            feed: The data; no batch of it was read yet.
            validation: The same for validation.
            epoch: The epoch to begin with if there is no checkpoint.

        Returns:
            The run's point, which the run keeps up to date.

        Raises:
            ValueError: The checkpoint is of another run; the message names the difference.
        """
        self._callbacks = CallbackState(callbacks.callbacks)
        self._feeds = {"train": feed} | ({"validation": validation} if validation else {})
        self.point = RunPoint(epoch)
        if self._checkpointer is None:
            callbacks.on_train_begin()
            return self.point
        workers = self._checkpointer.bind(self._model)
        # With several workers, each buffers its own rows, and the data is read in a fixed order.
        self._keeps_buffers = not workers.has_others
        rng_state.settle(workers.strategy)
        self._world = same_run.of_world(workers.share)
        self._rate = same_run.learning_rate(self._model)
        described = {"data": _identity_of(feed), "model": same_run.of_model(self._model)}
        self.note(**described, steps_per_epoch=feed.steps_per_epoch)
        saved, self._saved = self._saved, None  # frees a copy of the model's size
        if saved is None:
            callbacks.on_train_begin()
            self._callbacks.begin()
        else:
            self._refuse_other(saved)
            known = plain_values.decode(saved.plain["callbacks"], saved.arrays)
            self._callbacks.prepare(known if workers.is_chief else {})
            callbacks.on_train_begin()
            self._callbacks.begin()
            self._go_to(saved, callbacks)
            # Last, so that it overrides what the callbacks have just done.
            self._callbacks.give(known)
            entries = variables.entries_of(self._model)
            variables.restore(entries, saved.variables(), workers)
            rng_state.give(saved.arrays, workers)
        self._every.restart(self.point.step, now=time.monotonic())
        return self.point

    def steps_left(self) -> int | None:
        """Returns how many steps may run until the next save is due; None for any number."""
        return self._every.steps_left(self.point.step)

    def advance(self, steps: int) -> bool:
        """Records that `steps` more steps are done; tells whether a save is due."""
        self.point.done += steps
        self.point.step += steps
        return self._every.is_due(self.point.step, now=time.monotonic())

    def end_epoch(self, logs: Mapping[str, Any], *, is_over: bool, is_last: bool) -> None:
        """Moves on to the next epoch, and saves if a save is due. Every worker has to call it.

        Args:
            logs: The epoch's logs, floats or scalar tensors.
            is_over: Whether a callback ended the training here.
            is_last: Whether there is no further epoch.
        """
        self.point.epoch, self.point.done, self.point.is_over = self.point.epoch + 1, 0, is_over
        self.point.logs = keras_internals.python_logs(logs)
        if self._checkpointer is None:
            return
        has_best = self._checkpointer.best_name in self.point.logs
        if self._is_by_epoch or is_over or is_last or has_best:
            self.save(logs=self.point.logs)

    def save(self, *, logs: Mapping[str, float] | None = None) -> None:
        """Saves everything, in the background. Every worker has to call it.

        Raises:
            RuntimeError: The checkpoint before this one could not be written.
        """
        checkpointer = self._checkpointer
        if checkpointer is None:
            return
        checkpointer.wait()
        workers = checkpointer.bind(self._model)
        arrays: dict[str, np.ndarray] = {}
        point = dataclasses.asdict(self.point)
        content = {
            # Checkpoints on disk have the point under this key.
            "place": plain_values.encode(point, arrays, prefix=f"{OF_CALLBACKS}logs"),
            "feeds": {
                name: feed.state(rewinds=name != "train") for name, feed in self._feeds.items()
            },
            "callbacks": self._callbacks.take(arrays),
        }
        tensors = variables.snapshot(variables.entries_of(self._model), workers)
        tensors |= arrays | rng_state.take(workers) | self._buffers()
        checkpointer.store(
            tensors,
            content,
            step=self.point.step,
            facts={"run": self._facts, "world": self._world, "learning_rate": self._rate},
            logs=logs,
        )
        self._every.restart(self.point.step, now=time.monotonic())

    def _buffers(self) -> dict[str, Any]:
        """Returns where the training data is, if reading it again would not lead there."""
        feed, data = self._feeds["train"], self._facts["data"]
        is_in_order = isinstance(data, dict) and data.get("deterministic", True)
        if is_in_order or not self._keeps_buffers or feed.iterator is None:
            return {}
        try:
            return {f"{OF_BUFFERS}train": feed.buffers()}
        except tf.errors.OpError as error:
            self._keeps_buffers = False
            _LOG.warning("%s TensorFlow cannot save its place: %s", _IN_NO_ORDER, error.message)
            return {}

    def _usable_buffers(self, saved: Saved, name: str) -> Any:
        buffers = saved.arrays.get(OF_BUFFERS + name)
        before = saved.facts["world"]
        is_other = any(before[key] != self._world[key] for key in ("workers", "replicas"))
        if buffers is not None and is_other:
            _LOG.warning("%s Its place was saved for another number of replicas.", _IN_NO_ORDER)
            return None
        return buffers

    @property
    def is_told_to_leave(self) -> bool:
        """Whether this worker was sent SIGTERM, or SIGUSR1, or asked by its launcher."""
        return self._notice.number != 0 or contract.is_asked_to_leave(os.environ)

    def leave_if_told(self, workers: Workers) -> None:
        """Leaves if any worker was told to leave. Every worker has to call it."""
        if self._checkpointer is not None and workers.any(self.is_told_to_leave):
            self.leave(workers)

    def leave(self, workers: Workers) -> None:
        """Saves everything and ends this process. Every worker has to call it.

        Raises:
            SystemExit: Always, `contract.Saved`; see preemption.py.
        """
        if self._checkpointer is None:
            return
        told = workers.gather(self._notice.number)[:, 0]
        self.save()
        self._checkpointer.wait()
        workers.gather(0)  # one that ends may end the others: all wait until the chief has written
        why = "The number of workers changes"
        if number := int(told.max()):
            why = f"{signal.Signals(number).name} has come"
        _LOG.warning(
            "%s: the run is saved at step %d and ends with exit code %d. The same command "
            "goes on from there.", why, self.point.step, contract.PREEMPTED,
        )
        raise contract.Saved

    def _refuse_other(self, saved: Saved) -> None:
        found = same_run.differences(saved.facts["run"], self._facts)
        found += variables.differences(variables.entries_of(self._model), saved.variables())
        saved.refuse(found)
        if changes := same_run.differences(saved.facts["world"], self._world):
            _LOG.warning(
                "The run goes on, but its results will equal those of an undisturbed one up to "
                "rounding only: %s.", "; ".join(changes)
            )
        if saved.facts["learning_rate"] != self._rate:
            _LOG.warning(
                "The learning rate is %s here, and was %s when the run began; the run goes on with "
                "what the checkpoint holds.", self._rate, saved.facts["learning_rate"]
            )

    def _go_to(self, saved: Saved, callbacks: Any) -> None:
        self.point = point = RunPoint(**plain_values.decode(saved.plain["place"], saved.arrays))
        _LOG.info(
            "The run goes on from %s: epoch %d, of which %d steps are done; %d steps in all.",
            saved.folder, point.epoch + 1, point.done, point.step,
        )
        for name, feed in self._feeds.items():
            if name in saved.plain["feeds"]:
                feed.restore(
                    saved.plain["feeds"][name],
                    done=point.done if name == "train" else 0,
                    buffers=self._usable_buffers(saved, name),
                )
        if point.done:
            callbacks.on_epoch_begin(point.epoch)
        self._model.stop_training = point.is_over


def _seed(workers: Workers) -> int:
    """Returns the seed of `keras.utils.set_random_seed`, else one that the chief draws."""
    given = keras_internals.random_seed()
    drawn = secrets.randbelow(2**31) if given is None else int(given)
    return int(workers.gather(drawn)[0, 0])


def _identity_of(feed: Feed) -> Any:
    if feed.source.is_share:
        return "each worker's own share"
    try:
        return feed.source.identity()
    except ValueError:  # it draws random numbers without a seed
        return "of no order"
