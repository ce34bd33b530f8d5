"""What is a tracker?  Three methods, which the chief calls between two calls of the traced loop.

Nothing else is asked of it: no base class, and no registration.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

#: How a run ends: "saved" is a run that was told to leave, and goes on when it is started again.
STATUSES = ("finished", "failed", "interrupted", "saved")

Value = float | str


@runtime_checkable
class Tracker(Protocol):
    """Is told of a run of `fit`, on the chief, in the thread that trains.

    What it raises is told once, as a warning, and training goes on.
    """

    def start(self, config: Mapping[str, Any]) -> None:
        """Is called once, when everything is built and restored, before the first step.

        Args:
            config: What the run is made of, in plain values: versions, replicas, the model and how
                it was compiled, options. "begins_at_step" is above 0 where a run goes on from a
                checkpoint, and "checkpoint_dir" is the folder that such a run has in common with
                the one before it, or None.
        """

    def log(self, values: Mapping[str, Value], step: int) -> None:
        """Is called at the end of each epoch, and each few seconds within one.

        Args:
            values: Numbers, which may be infinite or NaN, and texts, by name: "loss", "accuracy",
                "val_loss" of an epoch; "running/loss" of the part of it that is done;
                "speed/examples_per_sec" over all workers; "profile/compute_secs" and the like;
                "check/train_step", what a check has found; "run/restarts".
            step: Steps of the whole run that are done. It may come again, and after a resumed run
                has begun also be smaller than before: what is told then is the same.
        """

    def finish(self, status: str) -> None:
        """Is called once, at the end.

        Args:
            status: One of "finished", "failed", "interrupted" and "saved".
        """


def flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested mappings as one, for trackers that know no others.

    >>> flat({"a": 1, "b": {"c": 2, "d": {}}})
    {'a': 1, 'b.c': 2}
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            found |= flat(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = value
    return found


def require(package: str, *, tracker: str, extra: str) -> None:
    """Raises an ImportError where the package of a tracker is not installed.

    Args:
        package: The name that is imported.
        tracker: Who needs it.
        extra: The extra of tfdist that brings it.
    """
    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"tfdist.tracking.{tracker} needs the package {package!r}, which is not installed. "
            f"Install it with: pip install 'tfdist[{extra}]'",
            name=package,
        )
