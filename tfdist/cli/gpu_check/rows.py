"""What is told of each thing that was tried?  A verdict, and what was found.

Synopsis:

    >>> print(judged("weights", 3e-5, limit=1e-4))
    ok       weights: off by 3.0e-05 (1.0e-04 at most)
    >>> print(judged("weights", float("nan"), limit=1e-4))
    WRONG    weights: off by nan (1.0e-04 at most)
"""

from __future__ import annotations

import dataclasses

#: It was tried and is right; it was measured, and nothing is expected; it could not be tried here.
OK, FOUND, LEFT_OUT = "ok", "found", "left out"
#: It was tried and gives something wrong; it ended with an error.
WRONG, FAILED = "WRONG", "FAILED"
BAD = (WRONG, FAILED)


@dataclasses.dataclass(frozen=True)
class Row:
    """What was found in one thing that was tried.

    Attributes:
        verdict: One of the names above.
        what: What was tried.
        text: What was found.
    """

    verdict: str
    what: str
    text: str

    def __str__(self) -> str:
        return f"{self.verdict:8} {self.what}: {self.text}"


def judged(what: str, error: float, *, limit: float, more: str = "") -> Row:
    """Returns the row of an error that has a limit; NaN is beyond any.

    Args:
        what: What was tried.
        error: How far it is off.
        limit: The most that rounding explains.
        more: What else was found.
    """
    text = f"off by {error:.1e} ({limit:.1e} at most)"
    return Row(OK if error <= limit else WRONG, what, text + (f"; {more}" if more else ""))


def told_of(what: str, error: BaseException) -> Row:
    """Returns the row of something that ended with an error."""
    first = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return Row(FAILED, what, f"{type(error).__name__}: {first[:300]}")
