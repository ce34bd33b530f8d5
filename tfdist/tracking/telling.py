"""How are several trackers told, though some of them may fail?  What one raises is told once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tfdist.tracking.tracker import Tracker, Value

_LOG = logging.getLogger("tfdist")


class Telling:
    """Tells trackers, of which none can end the training.

    One that raises when it starts is told nothing more. One that raises later is told further
    things, since the cause may pass.

    Args:
        trackers: The trackers.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = list(trackers)
        self._failed: set[int] = set()

    def start(self, config: Mapping[str, Any]) -> None:
        """Tells that the run begins; see `Tracker`."""
        self._trackers = self._told("start", lambda tracker: tracker.start(config))

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Tells numbers and texts; see `Tracker`."""
        if values:
            self._told("log", lambda tracker: tracker.log(values, step))

    def finish(self, status: str) -> None:
        """Tells that the run ends; see `Tracker`."""
        self._told("finish", lambda tracker: tracker.finish(status))

    def _told(self, method: str, tell: Callable[[Tracker], None]) -> list[Tracker]:
        """Returns those that raised nothing."""
        well = []
        for tracker in self._trackers:
            try:
                tell(tracker)
                well.append(tracker)
            except Exception as error:
                self._warn(tracker, method, error)
        return well

    def _warn(self, tracker: Tracker, method: str, error: Exception) -> None:
        if id(tracker) in self._failed:
            return
        self._failed.add(id(tracker))
        _LOG.warning(
            "The tracker %s failed in %s: %s: %s. Training goes on, %s.",
            type(tracker).__name__, method, type(error).__name__, error,
            "and it is told nothing more" if method == "start"
            else "and further failures of it are not told",
        )
