"""What are trackers told of a run, and when?  At its ends, each epoch's end, and between.

The chief tells, between two calls of the traced loop. Metrics are sums over all workers, so all of
them read what the chief tells, when the chief's clock says that it is time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from tfdist.cluster import contract
from tfdist.communication.workers import Workers
from tfdist.compat import keras_internals
from tfdist.data.feed import Feed
from tfdist.first_step import found
from tfdist.tracking import by_name
from tfdist.tracking.config import config_of, folder_of, restarts
from tfdist.tracking.examples import Examples, examples_of
from tfdist.tracking.telling import Telling

#: Seconds from one telling within an epoch to the next.
EVERY_SECS = 5.0
_PARTS = ("input", "compute", "communication", "host")


class Watch:
    """Tells trackers of one call of `fit`, inside a `with` block.

    Args:
        trackers: As in `fit`; those of other workers than the chief are not told anything.
        model: The model.
        workers: Of its strategy; every worker makes a `Watch`.
        clock: Gives the time in seconds.

    Raises:
        ValueError: What was given is no list of trackers.
        ImportError: The package of a tracker is not installed.
    """

    def __init__(
        self,
        trackers: Sequence[Any] | None = None,
        *,
        model: keras.Model,
        workers: Workers,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        by_name.refuse_unknown(trackers)
        #: Whether any worker has trackers: what they are told is read together.
        self.is_needed = workers.any(bool(trackers) and workers.is_chief)
        self._telling = Telling(by_name.made(trackers) if workers.is_chief else ())
        self._tells = self.is_needed and workers.is_chief
        self._model, self._workers, self._clock = model, workers, clock
        self._facts: dict[str, Any] = {}
        self._has_begun, self._step = False, 0
        self._examples: Examples | None = None
        self._told_at = self._mark = 0.0
        self._calls = self._steps = self._rows = 0
        self._secs = 0.0
        self._checked: Mapping[str, str] = {}

    def __enter__(self) -> Watch:
        return self

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if not self._has_begun:
            return
        if isinstance(error, Exception):
            self._telling.log({"run/error": f"{type(error).__name__}: {error}"}, self._step)
        self._telling.finish(_status_of(error))

    def note(self, *, checkpoint: Any, **facts: Any) -> None:
        """Records what is to be told of the run when it begins.

        Args:
            checkpoint: As `checkpoint_dir` in `fit`.
            **facts: Plain values.
        """
        self._facts = {"checkpoint_dir": folder_of(checkpoint), **facts}

    def begin(self, feed: Feed, *, step: int) -> None:
        """Tells that the run begins, built and restored. Every worker has to call it.

        Args:
            feed: The data that it trains on.
            step: Steps of the run that are done.
        """
        if not self.is_needed:
            return
        self._step, self._told_at = step, self._clock()
        self._examples = examples_of(feed.source, self._workers)
        if self._tells:
            config = config_of(self._model, self._workers, feed)
            self._has_begun = True
            self._telling.start({**config, "begins_at_step": step, **self._facts})

    def begin_epoch(self) -> None:
        """Leaves out the time since the last epoch's steps."""
        self._mark = self._clock()

    def ran(self, steps: int, *, first: int, step: int) -> None:
        """Records a call of the loop.

        Args:
            steps: Of that call.
            first: The number of its first batch, over all passes over the data.
            step: Steps of the run that are done.
        """
        now, self._step = self._clock(), step
        self._calls += 1
        if self._calls > 1:  # the first call has traced
            self._secs += now - self._mark
            self._steps += steps
            self._rows += self._examples.between(first, first + steps) if self._examples else 0
        self._mark = now

    def is_due(self) -> bool:
        """Whether this worker, if it is the chief, has something to tell within the epoch."""
        return self._tells and self._clock() - self._told_at >= EVERY_SECS

    def within_epoch(self, logs: Mapping[str, Any]) -> None:
        """Tells of the part of an epoch that is done.

        Args:
            logs: The loss and metrics so far, floats or scalar tensors.
        """
        if self._tells:
            self._tell({f"running/{name}": value for name, value in _numbers(logs).items()})

    def end_epoch(self, epoch: int, logs: Mapping[str, Any]) -> None:
        """Tells of a whole epoch.

        Args:
            epoch: Its number, from 0.
            logs: Its loss and metrics, and those of validation, floats or scalar tensors.
        """
        if self._tells:
            self._tell({"epoch": epoch + 1, **_numbers(logs), "run/restarts": restarts()})

    def end(self, profile: Any) -> None:
        """Tells what is known when all steps are done.

        Args:
            profile: The `Profile` of the chief, or None.
        """
        if not self._tells:
            return
        parts = [f"{part}_secs" for part in _PARTS] if profile else []
        values = {f"profile/{part}": getattr(profile.split, part) for part in parts}
        self._telling.log({**values, **self._news()}, self._step)

    def _tell(self, values: dict[str, Any]) -> None:
        self._telling.log({**values, **self._speed(), **self._news()}, self._step)
        self._told_at = self._clock()

    def _speed(self) -> dict[str, float]:
        """Returns the speed since the last telling; nothing where nothing was measured."""
        secs, steps, rows = self._secs, self._steps, self._rows
        self._secs, self._steps, self._rows = 0.0, 0, 0
        if not (secs > 0 and steps):
            return {}
        of_examples = {"speed/examples_per_sec": rows / secs} if self._examples else {}
        return {"speed/steps_per_sec": steps / secs, **of_examples}

    def _news(self) -> dict[str, str]:
        """Returns what checks have found since they were last told."""
        known, self._checked = self._checked, dict(found.texts(self._model))
        return {f"check/{step}": text for step, text in self._checked.items()
                if known.get(step) != text}


def _numbers(logs: Mapping[str, Any]) -> dict[str, float]:
    values = keras_internals.python_logs(logs)
    return {name: float(one) for name, one in values.items() if isinstance(one, (int, float))}


def _status_of(error: BaseException | None) -> str:
    if error is None:
        return "finished"
    if isinstance(error, contract.Saved):
        return "saved"
    return "failed" if isinstance(error, Exception) else "interrupted"
