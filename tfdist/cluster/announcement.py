"""What does a worker say of itself, and are all workers alike?  Facts, gathered and compared.

Synopsis:

    >>> find_differences([Announcement(n, 2, f"a:{n + 1}", {"keras": f"3.{n}"}) for n in range(2)])
    "  keras: '3.0' on worker 0; '3.1' on worker 1"
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import platform
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tfdist.cluster import messages
from tfdist.cluster.tf_config import check_address
from tfdist.cluster.wording import name_workers, shorten

# Each of these installs the package `tensorflow`.
_TENSORFLOWS = ("tensorflow", "tensorflow_cpu", "tensorflow_tpu", "tensorflow_intel", "tf_nightly")


@dataclasses.dataclass(frozen=True)
class Announcement:
    """What a worker says of itself."""

    rank: int
    size: int  # of the world, as this worker believes
    address: str  # "host:port" at which it will listen
    facts: Mapping[str, Any]  # by name; must be alike on all workers


def parse_announcement(text: str) -> Announcement:
    """Reads an announcement from its JSON text.

    Raises:
        ValueError: It is not an announcement.
    """
    message = messages.decode(text)
    numbers = [message.get("rank"), message.get("size")]
    if not all(type(number) is int and 0 <= number < 10**9 for number in numbers):
        raise ValueError(f"rank and size must be whole numbers from 0, not {shorten(numbers)}.")
    if wrong := check_address(message.get("address")):
        raise ValueError(f"In an announcement, {wrong}.")
    facts = message.get("facts")
    if not isinstance(facts, dict):
        raise ValueError(f"facts must be an object, not {type(facts).__name__}.")
    return Announcement(message["rank"], message["size"], message["address"], facts)


def find_differences(announcements: Sequence[Announcement]) -> str:
    """Lists the facts that differ between workers, one per line; "" if all are alike."""
    names = sorted({name for announcement in announcements for name in announcement.facts})
    lines = []
    for name in names:
        ranks_by_value: dict[str, list[int]] = {}
        for announcement in announcements:
            value = shorten(announcement.facts.get(name, "not told"))
            ranks_by_value.setdefault(value, []).append(announcement.rank)
        if len(ranks_by_value) > 1:
            values = "; ".join(
                f"{value} on {name_workers(ranks)}" for value, ranks in ranks_by_value.items()
            )
            lines.append(f"  {name}: {values}")
    return "\n".join(lines)


def gather_facts(*, script: str | None = None, flags: Sequence[str] = ()) -> dict[str, Any]:
    """Gathers what must be alike on all workers of a job, without importing any of it.

    Args:
        script: File whose content must be alike.
        flags: The flags of the script.
    """
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "tfdist": getattr(sys.modules.get("tfdist"), "__version__", "unknown"),
        "tensorflow": _installed_version(_TENSORFLOWS),
        "keras": _installed_version(("keras",)),
        "flags": list(flags),
    }
    if sum(map(len, facts["flags"])) > 16384:  # a message is limited, and people read the table
        facts["flags"] = f"sha256:{hashlib.sha256(repr(flags).encode()).hexdigest()[:16]}"
    if script is not None:
        with open(script, "rb") as file:
            facts["script"] = f"sha256:{hashlib.sha256(file.read()).hexdigest()[:16]}"
    return facts


def _installed_version(names: Sequence[str]) -> str:
    """Reads the version from the metadata folder's name; importlib.metadata takes 60 ms."""
    pattern = re.compile(rf"(?:{'|'.join(names)})-([^-]+)\.dist-info", re.IGNORECASE)
    for folder in filter(None, sys.path):
        with contextlib.suppress(OSError):
            found = sorted(filter(None, map(pattern.fullmatch, os.listdir(folder))), key=str)
            if found:
                return found[0][1]
    return "not installed"
