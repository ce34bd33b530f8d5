"""Which hosts does Slurm's short form name, and how many tasks run on each?

Synopsis:

    >>> expand_hosts("n[2,10-12],login")
    ('n2', 'n10', 'n11', 'n12', 'login')
    >>> expand_counts("2(x3),1")
    (2, 2, 2, 1)

The order is the list's own: sorted as text, n10 would come before n2 and ranks would be exchanged.
"""

from __future__ import annotations

import itertools
import math
import re

from tfdist.cluster.wording import shorten

MAX_HOSTS = 100_000  # far above any machine; a mistyped range must not fill the memory

_NUMBERS = re.compile(r"(\d{1,9})(?:-(\d{1,9}))?", re.ASCII)
_COUNT = re.compile(r"(\d{1,6})(?:\(x(\d{1,6})\))?", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9._-]*", re.ASCII)


def expand_hosts(text: str) -> tuple[str, ...]:
    """Expands a list of hosts in brackets, in its own order.

    Args:
        text: Names with ranges of numbers, "rack[1-2]n[01-03],login"; leading zeros are kept.

    Raises:
        ValueError: It is not such a list, or longer than MAX_HOSTS.
    """
    hosts: list[str] = []
    for item in _split_outside_brackets(text):
        parts: list[list[str]] = []
        for index, part in enumerate(re.split(r"\[([^\[\]]*)\]", item)):
            parts.append([part] if index % 2 == 0 else _expand_numbers(part, text))
            # Checked before the next part is expanded: a short text can mean very many hosts.
            if len(hosts) + math.prod(map(len, parts)) > MAX_HOSTS:
                raise _too_many(text)
        if not item or not all(_NAME.fullmatch(name) for part in parts for name in part):
            raise ValueError(f"{shorten(text)} is no list of hosts; write it as 'n[2,10-12],m1'.")
        hosts += map("".join, itertools.product(*parts))
    return tuple(hosts)


def _too_many(text: str) -> ValueError:
    return ValueError(f"{shorten(text)} names more than {MAX_HOSTS} hosts; correct it.")


def expand_counts(text: str) -> tuple[int, ...]:
    """Expands numbers of tasks, one for each host: "2(x3),1" is (2, 2, 2, 1).

    Raises:
        ValueError: It is no such list, or longer than MAX_HOSTS.
    """
    counts: list[int] = []
    for item in text.split(","):
        match = _COUNT.fullmatch(item)
        if match is None:
            raise ValueError(f"{shorten(text)} is no list of counts; write it as '2(x3),1'.")
        repeats = int(match[2] or 1)
        if len(counts) + repeats > MAX_HOSTS:
            raise ValueError(f"{shorten(text)} has more than {MAX_HOSTS} counts; correct it.")
        counts += [int(match[1])] * repeats
    return tuple(counts)


def _split_outside_brackets(text: str) -> list[str]:
    items, depth = [""], 0
    for piece in re.findall(r"[^,\[\]]+|.", text, re.DOTALL):
        depth += (piece == "[") - (piece == "]" and depth > 0)
        if piece == "," and not depth:
            items.append("")
        else:
            items[-1] += piece
    return items


def _expand_numbers(text: str, whole: str) -> list[str]:
    """The numbers of one pair of brackets, as texts: "2,08-10" is 2, 08, 09, 10."""
    numbers: list[str] = []
    for item in text.split(","):
        match = _NUMBERS.fullmatch(item)
        first = last = 0
        if match is not None:
            first, last = int(match[1]), int(match[2] or match[1])
        if match is None or last < first or last - first >= MAX_HOSTS:
            raise ValueError(
                f"{shorten(whole)} is no list of hosts: {shorten(item)} is no number or range."
                " Write it as 'n[2,10-12]'."
            )
        if len(numbers) + last - first >= MAX_HOSTS:
            raise _too_many(whole)
        numbers += (str(number).zfill(len(match[1])) for number in range(first, last + 1))
    return numbers
