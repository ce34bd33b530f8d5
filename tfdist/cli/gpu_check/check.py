"""All parts of the check, one after the other, within ten minutes: `tfdist doctor --gpu-check`."""

from __future__ import annotations

import datetime
import platform
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

from tfdist.cli.gpu_check import part
from tfdist.cli.gpu_check.rows import BAD, LEFT_OUT, Row
from tfdist.cli.gpu_check.setting import Setting

SECS = 600.0
_PART_SECS = 240.0
_LEAST_SECS = 10.0
_NEEDS = {"parity": "oracles", "replicas": "oracles", "workers": "oracles"}
_ON_CPU = (
    "NO GPU: this ran on the CPU with small models, as a test of the check itself. It says nothing "
    "about a GPU."
)


def run(
    kind: str,
    parts: Sequence[str] = (),
    *,
    secs: float = SECS,
    show: Callable[[str], None] = print,
) -> bool:
    """Runs the check, and shows its rows as they come; returns whether nothing was wrong.

    Args:
        kind: "gpu", or "cpu" to test the check itself.
        parts: Names of `part.PARTS`; all of them by default. What they need runs too.
        secs: The longest time for all of them, in seconds.
        show: Shows a line.
    """
    wanted = [name for name in part.PARTS if not parts or name in _with_needs(parts)]
    began = time.monotonic()
    for line in _head(kind):
        show(line)
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="tfdist-gpu-check-") as folder:
        for name in wanted:
            left = secs - (time.monotonic() - began)
            if left < _LEAST_SECS:
                found = [Row(LEFT_OUT, name, "no time was left")]
            else:
                at = time.monotonic()
                limit = min(left, _PART_SECS)
                found = part.run(name, Setting(kind, folder), timeout_secs=limit)
                show(f"-------- {name}, {time.monotonic() - at:.0f} s")
            for row in found:
                show(str(row))
            rows += found
    bad = [row for row in rows if row.verdict in BAD]
    show(_verdict(rows, bad, secs=time.monotonic() - began))
    if kind == "cpu":
        show(_ON_CPU)
    return not bad


def _with_needs(parts: Sequence[str]) -> set[str]:
    return {*parts, *(_NEEDS[name] for name in parts if name in _NEEDS)}


def _head(kind: str) -> list[str]:
    version = sys.modules["tfdist"].__version__
    now = datetime.datetime.now(datetime.timezone.utc)
    host = f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    asked = f"tfdist {version} --gpu-check --device={kind}"
    lines = [f"======== {asked}, {now:%Y-%m-%d %H:%M} UTC, {host}"]
    return [*lines, _ON_CPU] if kind == "cpu" else lines


def _verdict(rows: Sequence[Row], bad: Sequence[Row], *, secs: float) -> str:
    count: dict[str, int] = {}
    for row in rows:
        count[row.verdict] = count.get(row.verdict, 0) + 1
    told = ", ".join(f"{number} {verdict}" for verdict, number in count.items())
    first = f" The first: {bad[0].what}." if bad else ""
    return f"======== {secs:.0f} s: {told}.{first} Please send this whole block back."
