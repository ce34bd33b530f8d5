"""Where does what was measured stand?  In docs/benchmark.json, which a table and a picture are of.

    python scripts/benchmark_page.py      # draws both anew, from what is kept

`benchmark.py --write` puts each number in the place of the one of its name. The picture has
the speed-up of workers: for one and two as measured, for four as predicted from these. What two
workers take beyond one grows like the bytes that a worker sends around a ring of n, 2 (n - 1) / n.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from documents import replace_table

from tfdist.diagnostics import speed

_DOCS = pathlib.Path(__file__).resolve().parent.parent / "docs"
_MARK = "benchmark table"
_MEASURED = "CNN: efficiency of 2 workers, weak"
_WORKERS = (1, 2, 4)
_LEFT, _BOTTOM, _WIDTH, _HEIGHT = 60, 250, 400, 210  # of the axes, in pixels
_TOP_SPEED, _TOP_LEVEL = 4.4, 4


def row(result: speed.Ratio | speed.Cost) -> str:
    """Returns a line of the table."""
    least = "" if isinstance(result, speed.Ratio) else " at most"
    aim = "" if result.target is None else f"{result.target:g}{least}"
    spread = f"{result.low:.2f} to {result.high:.2f}"
    return f"| {result.name} | {result.median:.2f} | {spread} | {aim} |"


def read(docs: pathlib.Path = _DOCS) -> dict[str, speed.Ratio | speed.Cost]:
    """Returns what is kept, by name."""
    kept = json.loads((docs / "benchmark.json").read_text())
    results: list[speed.Ratio | speed.Cost] = [speed.Ratio(**each) for each in kept["ratios"]]
    results += [speed.Cost(**each) for each in kept["costs"]]
    return {result.name: result for result in results}


def write(
    results: Sequence[speed.Ratio | speed.Cost], docs: pathlib.Path = _DOCS, *, machine: str = ""
) -> None:
    """Keeps results, each in the place of the one of its name; draws the table and the picture.

    Args:
        results: What was measured.
        docs: The folder of the page.
        machine: On what it was measured; "" leaves what the page says of it.
    """
    machine = machine or json.loads((docs / "benchmark.json").read_text())["machine"]
    kept = read(docs) | {result.name: result for result in results}
    kinds = {"ratios": speed.Ratio, "costs": speed.Cost}
    found: dict[str, Any] = {"machine": machine} | {
        name: [dataclasses.asdict(each) for each in kept.values() if isinstance(each, kind)]
        for name, kind in kinds.items()
    }
    (docs / "benchmark.json").write_text(json.dumps(found, indent=1) + "\n")
    heads = [f"Measured last on {machine}.", "",
             "| what | ratio | quartiles | aim |", "|---|---|---|---|"]
    replace_table(docs / "performance.md", _MARK, [*heads, *map(row, kept.values())])
    (docs / "speed_up.svg").write_text(picture(kept[_MEASURED].median))


def speed_ups(efficiency: float) -> dict[int, float]:
    """Returns examples per second over one worker's, from the efficiency of two in weak scaling.

    >>> {n: round(value, 2) for n, value in speed_ups(0.8).items()}
    {1: 1.0, 2: 1.6, 4: 2.91}
    """
    beyond = 1 / efficiency - 1  # of a step's time, for two workers, whose ring sends 1
    return {n: n / (1 + beyond * 2 * (n - 1) / n) for n in _WORKERS}


def picture(efficiency: float) -> str:
    """Returns the picture as SVG, readable on a light and on a dark ground."""
    values = speed_ups(efficiency)
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 300" width="480" height="300" '
        'role="img" font-family="sans-serif" font-size="13">',
        f"<title>Speed-up of a CNN: {_told(values)}</title>",
        '<rect width="480" height="300" rx="6" fill="#fff"/>',
        f'<text x="{_LEFT}" y="24" font-weight="bold">'
        "Speed-up over one worker, CNN, one core each</text>",
    ]
    for level in range(_TOP_LEVEL + 1):
        y = _y(level)
        parts.append(f'<path d="M{_LEFT} {y}H{_LEFT + _WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="{_LEFT - 10}" y="{y + 4}" text-anchor="end">{level}</text>')
    for index, (n, value) in enumerate(values.items()):
        x, is_measured = _LEFT + 40 + 130 * index, n <= 2
        look = 'fill="#1f6feb"' if is_measured else (
            'fill="#fff" stroke="#1f6feb" stroke-width="2" stroke-dasharray="5 4"'
        )
        top = _y(value)
        parts.append(f'<path d="M{x} {_BOTTOM}V{top}h60V{_BOTTOM}z" {look}/>')
        parts.append(f'<path d="M{x - 8} {_y(n)}h76" stroke="#888" stroke-dasharray="3 3"/>')
        parts.append(f'<text x="{x + 30}" y="{top + 18}" text-anchor="middle" '
                     f'fill="{"#fff" if is_measured else "#1f6feb"}">{value:.2f}</text>')
        name = f"{n} worker{'s' if n > 1 else ''}" + ("" if is_measured else ", predicted")
        parts.append(f'<text x="{x + 30}" y="{_BOTTOM + 18}" text-anchor="middle">{name}</text>')
    parts.append(f'<text x="{_LEFT}" y="{_BOTTOM + 40}" fill="#666">'
                 "Dashed lines: as many times as there are workers.</text>")
    return "\n".join([*parts, "</svg>", ""])



def _y(value: float) -> float:
    return round(_BOTTOM - _HEIGHT * value / _TOP_SPEED, 1)


def _told(values: dict[int, Any]) -> str:
    return ", ".join(f"{value:.2f} on {n}" for n, value in values.items())


if __name__ == "__main__":
    write([])
