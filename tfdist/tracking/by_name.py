"""Which trackers have names, for `fit(trackers=["mlflow"])` and `tfdist run --track=mlflow`?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tfdist.tracking.json_lines import JsonLines
from tfdist.tracking.mlflow import MLflow
from tfdist.tracking.tensorboard import TensorBoard
from tfdist.tracking.tracker import Tracker
from tfdist.tracking.wandb import WeightsAndBiases

#: Makes a tracker for a place that was given, by name.
_AT: dict[str, Callable[[str], Tracker]] = {
    "json": JsonLines,
    "mlflow": lambda uri: MLflow(tracking_uri=uri),
    "tensorboard": TensorBoard,
    "wandb": lambda folder: WeightsAndBiases(folder=folder),
}
_ANYWHERE: dict[str, Callable[[], Tracker]] = {
    "json": JsonLines, "mlflow": MLflow, "tensorboard": TensorBoard, "wandb": WeightsAndBiases,
}  # fmt: skip
NAMES = tuple(_AT)


def refuse_unknown(trackers: Any) -> None:
    """Raises a ValueError where what `fit` got as `trackers` cannot be told anything."""
    if trackers is None:
        return
    if isinstance(trackers, (str, bytes)) or not isinstance(trackers, Sequence):
        raise ValueError(
            f"trackers={trackers!r} is not a list. Give one, as in trackers=['json'], or "
            "trackers=[tfdist.tracking.TensorBoard('folder')]."
        )
    for one in trackers:
        if isinstance(one, str):
            if one.partition(":")[0] not in NAMES:
                raise ValueError(
                    f"trackers={list(trackers)!r} names {one!r}, which is none of "
                    f"{', '.join(NAMES)}. Give one of these, with a place behind it if it has one "
                    "of its own, as in 'json:run.jsonl'; or an object with start, log and finish."
                )
        elif isinstance(one, type) or not isinstance(one, Tracker):
            raise ValueError(
                f"trackers={list(trackers)!r} holds {one!r}, which is no object with the methods "
                "start, log and finish. Give one, or a name, as in trackers=['json']."
            )


def made(trackers: Sequence[Any] | None) -> list[Tracker]:
    """Returns the trackers of `fit`, in which names are made trackers.

    Args:
        trackers: Trackers, and names such as "json" or "json:run.jsonl"; or None for none.

    Raises:
        ValueError: See `refuse_unknown`.
        ImportError: The package of a tracker is not installed.
    """
    refuse_unknown(trackers)
    return [_made(one) if isinstance(one, str) else one for one in trackers or ()]


def _made(text: str) -> Tracker:
    name, _, place = text.partition(":")
    return _AT[name](place) if place else _ANYWHERE[name]()
