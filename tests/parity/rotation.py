"""Which tests is it the turn of?

What one run of CI has no time for goes round: each commit has its own part of it, which its hash
chooses, so that a failure comes again when the same commit is tested again.
"""

from __future__ import annotations

import functools
import pathlib
import subprocess
import zlib

HARDEST_WORLDS = 7  # in how many parts the rows go round, each in its hardest world
FURTHER_WORLDS = 14  # in how many parts the worlds go round in which a row is not hardest
SLOW_CASES = 6  # in how many parts the cases of slow tests go round
ORACLES = 16  # in how many parts the kept outcomes of stock Keras are computed again
_HERE = pathlib.Path(__file__).parent


@functools.cache
def commit() -> str:
    """Returns the hash of the commit that is checked out; zeros where there is none."""
    command = ["git", "-C", str(_HERE), "rev-parse", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return "0" * 40
    return found.stdout.strip()


def turn(parts: int) -> int:
    """Returns which part of so many has its turn."""
    return int(commit()[:8], 16) % parts


def has_turn(name: str, parts: int) -> bool:
    """Whether what has this name belongs to the part that has its turn."""
    return (zlib.crc32(name.encode()) - turn(parts)) % parts == 0


def summary() -> str:
    """Says which part has its turn, for the head of a report."""
    hardest, further = turn(HARDEST_WORLDS), turn(FURTHER_WORLDS)
    return (
        f"parity table: for commit {commit()[:12]} part {hardest} of {HARDEST_WORLDS} of the rows "
        f"in their hardest worlds, part {further} of {FURTHER_WORLDS} in the other worlds, part "
        f"{turn(ORACLES)} of {ORACLES} of the kept outcomes of stock Keras computed again; part "
        f"{turn(SLOW_CASES)} of {SLOW_CASES} of the cases of slow tests"
    )
