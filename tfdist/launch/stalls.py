"""Does every worker still make steps?  cluster/progress.py writes it down."""

from __future__ import annotations

from tfdist.cluster.progress import read_progress

_LOOK_SECS = 0.5


class StallWatch:
    """Watches the workers of one attempt; the time is given, so that tests need no wait.

    Args:
        run_dir: Private folder of the attempt.
        workers: Number of workers.
        stall_secs: Longest time without a step, in seconds; None for any.
    """

    def __init__(self, run_dir: str, *, workers: int, stall_secs: float | None) -> None:
        self._run_dir, self._workers, self._stall_secs = run_dir, workers, stall_secs
        self._seen = dict.fromkeys(range(workers), (0, 0.0))  # the count, and since when
        self._looked_at = -_LOOK_SECS

    def stalled(self, *, now: float) -> list[int]:
        """Returns the workers that hold up all of them: those that have come the least far.

        Args:
            now: Seconds, of a clock that never goes back.
        """
        if self._stall_secs is None or now < self._looked_at + _LOOK_SECS:
            return []
        self._looked_at = now
        for rank, (before, _) in self._seen.items():
            if (count := read_progress(self._run_dir, rank)) != before:
                self._seen[rank] = count, now
        # A worker outside of `fit` and its like (count 0) may take as long as it likes.
        late = {
            rank: count
            for rank, (count, since) in self._seen.items()
            if count and now - since > self._stall_secs
        }
        return [rank for rank, count in late.items() if count == min(late.values())]
