"""What has come of a federated training?"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np


@dataclasses.dataclass(frozen=True)
class Federated:
    """What `tfdist.federated.fit` returns, the same on every worker.

    Attributes:
        model: The model, with the weights of the server.
        rounds: Of each round a dict: "clients" (whose changes are in it), "left" (who is not, and
            why), "examples", "logs", "by_client", and where the round was evaluated "val_logs" and
            "val_by_client".
        local: The weights that stay with each client, by client and name; {} where there are none,
            or where they have stayed with the sites.
    """

    model: keras.Model
    rounds: list[dict[str, Any]]
    local: dict[str, dict[str, np.ndarray]] = dataclasses.field(default_factory=dict)

    @property
    def history(self) -> dict[str, list[float]]:
        """The logs of all rounds by name, as in a `History` of Keras."""
        found: dict[str, list[float]] = {}
        for told in self.rounds:
            for name, value in {**told["logs"], **told.get("val_logs", {})}.items():
                found.setdefault(name, []).append(value)
        return found

    def plot(self, path: str | os.PathLike[str]) -> None:
        """Writes a picture of the logs over the rounds, and who took part, as a PNG file.

        Args:
            path: The file.

        Raises:
            ImportError: Matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise ImportError(
                "A plot needs the package 'matplotlib', which is not installed. Install it with "
                "pip install 'tfdist[plot]', or look at .history.",
                name="matplotlib",
            ) from error
        figure = Figure(figsize=(7, 7))
        above, below = figure.subplots(2, 1, sharex=True)
        for name in self.history:
            rounds = [i + 1 for i, told in enumerate(self.rounds) if name in _logs_of(told)]
            above.plot(rounds, self.history[name], label=name)
        above.grid(alpha=0.3)
        above.legend()
        _bars(below, self.rounds)
        figure.tight_layout()
        figure.savefig(os.fspath(path), format="png", dpi=100)


def _logs_of(told: dict[str, Any]) -> dict[str, float]:
    return {**told["logs"], **told.get("val_logs", {})}


def _bars(axes: Any, rounds: Sequence[dict[str, Any]]) -> None:
    numbers = [i + 1 for i in range(len(rounds))]
    took = [len(told["clients"]) for told in rounds]
    axes.bar(numbers, took, label="took part")
    axes.bar(numbers, [len(told["left"]) for told in rounds], bottom=took, label="left")
    axes.set_xlabel("round")
    axes.set_ylabel("clients")
    axes.legend()
