"""How are values and workers named in messages?

Synopsis:

    >>> shorten("a" * 9, limit=6)
    "'aa...a'"
    >>> name_workers([5, 0, 1, 2])
    'workers 0-2, 5'
"""

from __future__ import annotations

from collections.abc import Sequence


def shorten(value: object, *, limit: int = 160) -> str:
    """Shows a value in an error message, cut in the middle where it is long."""
    try:
        text = repr(value)
    except RecursionError:
        return f"a {type(value).__name__} that is nested too deeply"
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]}...{text[-limit // 3 :]}"


def name_workers(ranks: Sequence[int]) -> str:
    """Names workers in few words: "worker 3", "workers 0-2, 5"."""
    runs: list[list[int]] = []
    for rank in sorted(ranks):
        if runs and rank == runs[-1][-1] + 1:
            runs[-1].append(rank)
        else:
            runs.append([rank])
    texts = [f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs]
    return f"worker{'s' if len(ranks) > 1 else ''} {', '.join(texts)}"
