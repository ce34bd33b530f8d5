"""What is a rule of what is known to break?

Synopsis:

    >>> Facts(packages={"ray": "2.56.1"}) in Versions("ray", (2, 52))
    True
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from tfdist.cli.health.facts import TENSORFLOWS, Facts


@dataclasses.dataclass(frozen=True)
class Versions:
    """A range of versions of a package; "tensorflow" is any of its distributions."""

    package: str
    at_least: tuple[int, ...] = ()
    below: tuple[int, ...] = (1 << 30,)

    def __contains__(self, facts: object) -> bool:
        found = version_of(facts, self.package) if isinstance(facts, Facts) else ""
        return bool(found) and self.at_least <= numbers(found) < self.below

    def __str__(self) -> str:
        parts = [f">={'.'.join(map(str, self.at_least))}"] if self.at_least else []
        parts += [f"<{'.'.join(map(str, self.below))}"] if self.below[0] < 1 << 30 else []
        return self.package + ",".join(parts)


@dataclasses.dataclass(frozen=True)
class Rule:
    """Something that is known to break.

    Attributes:
        name: Its name, by which others can talk of it.
        severity: "stops", "breaks" or "slows".
        symptom: What people see.
        cure: What to do.
        finds: Returns what shows that the rule applies to facts; "" where it does not.
        versions: Where it applies; None for all versions.
        issue: Where the public can read about it; "" where nobody has written.
    """

    name: str
    severity: str
    symptom: str
    cure: str
    finds: Callable[[Facts], str]
    versions: Versions | None = None
    issue: str = ""


@dataclasses.dataclass(frozen=True)
class Finding:
    """A rule that applies, and what shows it."""

    rule: Rule
    evidence: str

    def __str__(self) -> str:
        rule = self.rule
        more = f"\n    see: {rule.issue}" if rule.issue else ""
        return (
            f"{rule.severity.upper()} [{rule.name}] {self.evidence}\n    then: {rule.symptom}\n"
            f"    do: {rule.cure}{more}"
        )


def version_of(facts: Facts, package: str) -> str:
    """Returns the version of a package; of any TensorFlow for "tensorflow", of Python too."""
    if package == "python":
        return facts.python[0]
    names = TENSORFLOWS if package == "tensorflow" else (package,)
    return next((facts.packages[name] for name in names if name in facts.packages), "")


def numbers(version: str) -> tuple[int, ...]:
    """Returns the leading numbers of a version.

    >>> numbers("2.21.0"), numbers("2.22.0rc1"), numbers("2.22.0.dev20260601")
    ((2, 21, 0), (2, 22), (2, 22, 0))
    """
    found: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        found.append(int(part))
    return tuple(found)
