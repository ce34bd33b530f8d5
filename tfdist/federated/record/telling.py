"""Who is told of the rounds: the terminal, and trackers."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tfdist.tracking.by_name import made
from tfdist.tracking.telling import Telling


class Teller:
    """Tells of each round.

    Args:
        trackers: As in `tfdist.fit`.
        rounds: How many there will be.
        verbose: 0 for no lines.
    """

    def __init__(self, trackers: Sequence[Any] | None, *, rounds: int, verbose: Any) -> None:
        self._telling = Telling(made(trackers))
        self._rounds, self._is_loud = rounds, verbose not in (0, False)

    @contextlib.contextmanager
    def run(self, config: Mapping[str, Any]) -> Iterator[None]:
        """Tells that a run begins, and how it ends."""
        self._telling.start(config)
        status = "failed"
        try:
            yield
            status = "finished"
        except KeyboardInterrupt:
            status = "interrupted"
            raise
        finally:
            self._telling.finish(status)

    def round(self, told: Mapping[str, Any]) -> None:
        """Tells of a round that is done."""
        logs = {**told["logs"], **told.get("val_logs", {})}
        number = told["round"] + 1
        counts = {"clients": float(len(told["clients"])), "left": float(len(told["left"]))}
        self._telling.log({**logs, **counts}, number)
        if self._is_loud:
            left = f", {len(told['left'])} left" if told["left"] else ""
            shown = "".join(f" - {name}: {value:.4g}" for name, value in logs.items())
            print(f"Round {number}/{self._rounds}: {len(told['clients'])} clients{left}{shown}")
