"""Runs the parity table, stock Keras beside tfdist, and writes the tables of the documents.

    python scripts/parity_table.py                            # all of it, about an hour
    python scripts/parity_table.py --worlds=2 --rows="SGD*"   # a part of it
    python scripts/parity_table.py --write                    # and replace the tables
    python scripts/parity_table.py --junit=tests.xml --write  # with what pytest found of tfdist's

A row is a program of tests/parity/: a model, its data, how it is trained. It is "right" where every
weight, loss, metric and prediction is what stock Keras gives for it on one device. A row that hangs
or brings its process down fails, and the rest goes on in a new process. Results are kept in a file
(--results), so that a run that was ended goes on where it was.
"""

from __future__ import annotations

import collections
import fnmatch
import importlib
import json
import pathlib
import queue
import re
import subprocess
import sys
import threading
import xml.etree.ElementTree
from collections.abc import Iterable
from typing import Any

from absl import app, flags
from documents import replace_table

_CHECKOUT = pathlib.Path(__file__).resolve().parent.parent
_WORLDS = ("2", "4", "2 workers", "3 workers")

_WANTED = flags.DEFINE_list("worlds", ["keras", *_WORLDS], "Worlds, of: keras, 2, 4, 2 workers, ..")
_ROWS = flags.DEFINE_string("rows", "*", "Names of rows, as a pattern of the shell's kind.")
_RESULTS = flags.DEFINE_string("results", "parity.jsonl", "The file in which results are kept.")
_JUNIT = flags.DEFINE_string("junit", None, "A report of pytest on tests/ to read.")
_WRITE = flags.DEFINE_bool("write", False, "Whether to replace the tables in the documents.")
_ROWS_A_PROCESS = 30
_ROW_SECS = flags.DEFINE_float("row_secs", 120.0, "Longest time for a row, in seconds.")

Verdicts = dict[tuple[str, str], dict[str, Any]]


def topics() -> dict[str, tuple[Any, ...]]:
    """Returns the rows of the table by topic."""
    sys.path.insert(0, str(_CHECKOUT / "tests"))
    return dict(importlib.import_module("parity.table").TOPICS)


def rows_of(world: str) -> list[str]:
    """Returns the names of the rows that run in a world, and that were asked for."""
    real = "2" if world == "keras" else world
    rows = [row for rows in topics().values() for row in rows if real in row.worlds]
    return [row.name for row in rows if fnmatch.fnmatch(row.name, _ROWS.value)]


def read_results(path: pathlib.Path) -> Verdicts:
    """Returns what earlier runs found, by world and row."""
    if not path.exists():
        return {}
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    return {(_name_of(line), line["row"]): line for line in lines}


def read_junit(path: str) -> Verdicts:
    """Returns what a run of tests/house/test_parity*.py found: a row that passed there is right."""
    found: Verdicts = {}
    for test in xml.etree.ElementTree.parse(path).iter("testcase"):
        name = re.fullmatch(r"test_row\[(.*)-([^-]*)\]", test.get("name", ""))
        if name and test.find("skipped") is None:
            is_right = test.find("failure") is None and test.find("error") is None
            row, world = name.groups()
            found[world, row] = {
                "row": row, "world": world, "is_stock": False, "detail": "",
                "result": "right" if is_right else "wrong",
            }
    return found


def _name_of(verdict: dict[str, Any]) -> str:
    return "keras" if verdict["is_stock"] else str(verdict["world"])


def run_world(world: str, names: list[str], path: pathlib.Path) -> None:
    """Runs rows in processes of their own until each has a verdict; adds them to the file."""
    while names:
        # TensorFlow lets go of few of its graphs, so that rows take longer the older a process is.
        asked = names[:_ROWS_A_PROCESS]
        judged = _run_process(world, asked, path)
        lost = next((name for name in asked if name not in judged), None)
        if lost is not None:
            _keep(_lost(world, lost), path)
        names = [name for name in names if name not in judged and name != lost]


def _lost(world: str, name: str) -> dict[str, Any]:
    return {
        "row": name, "world": "2" if world == "keras" else world,
        "is_stock": world == "keras", "result": "fails",
        "detail": f"it hung for {_ROW_SECS.value:.0f} s, or brought the process down",
    }


def _run_process(world: str, names: list[str], path: pathlib.Path) -> set[str]:
    which = ["--stock", "2"] if world == "keras" else [world]
    process = subprocess.Popen(
        [sys.executable, "-m", "parity.verdicts", *which, *names], cwd=_CHECKOUT / "tests",
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )
    lines: queue.Queue[str] = queue.Queue()
    threading.Thread(target=_read_lines, args=(process, lines), daemon=True).start()
    # The rows of workers come all at once, when their job is over.
    patience = _ROW_SECS.value * (len(names) if world.endswith("workers") else 1)
    judged = set()
    try:
        while line := lines.get(timeout=patience + 60):
            if line.startswith("{"):
                verdict = json.loads(line)
                judged.add(verdict["row"])
                _keep(verdict, path)
    except queue.Empty:
        pass  # the row that hangs is the first without a verdict
    finally:
        process.kill()
        process.wait()
    return judged


def _read_lines(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    for line in process.stdout or ():
        lines.put(line)
    lines.put("")


def _keep(verdict: dict[str, Any], path: pathlib.Path) -> None:
    with path.open("a") as file:
        file.write(json.dumps(verdict) + "\n")
    text = f"{verdict['row']}  {verdict['detail'][:120]}"
    print(f"{_name_of(verdict):10} {verdict['result']:6} {text}", flush=True)


def summary(found: Verdicts) -> list[str]:
    """Returns the lines of the table of docs/agrees.md: a line a topic, a column a world."""
    heads = ["keras", *_WORLDS]
    names = ["what", "stock Keras, 2 replicas", *(f"tfdist, {w}" for w in ("2 replicas", "4"))]
    names += ["2 workers", "3 workers"]
    lines = ["| " + " | ".join(names) + " |", "|---" * len(names) + "|"]
    totals = collections.Counter[tuple[str, str]]()
    for topic, rows in topics().items():
        cells = []
        for world in heads:
            results = [found[world, r.name]["result"] for r in rows if (world, r.name) in found]
            counts = collections.Counter(results)
            totals.update({(world, result): n for result, n in counts.items()})
            cells.append(_cell(counts))
        lines.append("| " + " | ".join([topic, *cells]) + " |")
    whole = [
        _cell({r: totals[world, r] for r in ("right", "wrong", "fails")}) for world in heads
    ]
    return [*lines, "| " + " | ".join(["**all rows**", *whole]) + " |"]


# The topics of README's five rows.
_SHORT = {
    "optimizers, clipping, accumulation, averaged weights, mixed precision": (
        "clipping, accumulation, averaged weights", "optimizers, schedules, weight decay",
        "optimizers in slices", "mixed precision and overflows",
    ),
    "losses, masks, weights, metrics, losses of the model's own": (
        "losses, reductions, weights, masks", "losses of the model's own", "metrics",
        "comparisons of examples",
    ),
    "uneven batches, datasets cut for workers, static shapes, options of the loop": (
        "sizes of batches", "datasets whose examples are made one by one", "static shapes",
        "options of the loop",
    ),
    "layers, models, adapters, tables, dropout and other draws": (
        "layers", "adapters, and weights in int8 and int4", "tables looked up once for a batch",
        "rematerialization", "kinds of models", "randomness",
    ),
    "training steps of one's own": ("training steps of one's own",),
}


def short(lines: list[str]) -> list[str]:
    """Returns the lines of README's table, which adds up those of `summary`."""
    cells = {line.split(" | ")[0].strip("| "): line.strip("|").split("|")[1:] for line in lines[2:]}
    missing = set(cells) - {"**all rows**"} - {name for names in _SHORT.values() for name in names}
    if missing:
        raise RuntimeError(f"README's table lacks {sorted(missing)}; add them to _SHORT.")
    names = "what", "stock Keras, 2 replicas", "tfdist, 2 replicas", "2 workers"
    found = ["| " + " | ".join(names) + " |", "|---|---|---|---|"]
    for title, topics_of in _SHORT.items():
        sums = [_sum(cells[name][i] for name in topics_of) for i in (0, 1, 3)]
        parts = [" of ".join(map(str, pair)) for pair in sums]
        found.append("| " + " | ".join([title, *parts]) + " |")
    return found


def _sum(cells: Iterable[str]) -> tuple[int, int]:
    pairs = [re.match(r"\s*(\d+) of (\d+)", cell) for cell in cells]
    rights, totals = zip(*[(int(p[1]), int(p[2])) for p in pairs if p], strict=True)
    return sum(rights), sum(totals)


def _cell(counts: Any) -> str:
    total = sum(counts.values())
    if not total:
        return ""
    kinds = {"wrong": "wrong", "fails": "failed"}
    bad = [f"{counts[kind]} {text}" for kind, text in kinds.items() if counts.get(kind)]
    return ", ".join([f"{counts.get('right', 0)} of {total}", *bad])


def details(found: Verdicts) -> list[str]:
    """Returns the lines of the table of docs/parity.md: a line a row."""
    lines = ["| row | stock Keras, 2 replicas | tfdist: 2 | 4 | 2 workers | 3 workers |",
             "|---|---|---|---|---|---|"]
    for topic, rows in topics().items():
        lines.append(f"| **{topic}** | | | | | |")
        for row in rows:
            cells = [found.get((world, row.name), {}).get("result", "") for world in _WORLDS]
            stock = found.get(("keras", row.name), {})
            cells.insert(0, _stock_cell(stock))
            lines.append("| " + " | ".join([row.name, *cells]) + " |")
    return lines


def _stock_cell(verdict: dict[str, Any]) -> str:
    if verdict.get("result", "right") == "right":
        return str(verdict.get("result", ""))
    detail = verdict["detail"].split("; ")[0]
    if verdict["result"] == "fails":
        detail = detail.split(":")[0]
    return f"**{verdict['result']}**: {detail[:70]}".replace("|", "/").replace("\n", " ")


def main(argv: list[str]) -> None:
    """Runs what has no result yet, and prints the table."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; flags are given as --name=value.")
    unknown = set(_WANTED.value) - {"keras", *_WORLDS}
    if unknown:
        raise app.UsageError(f"--worlds has {sorted(unknown)}; there are keras and {_WORLDS}.")
    path = pathlib.Path(_RESULTS.value)
    if _JUNIT.value:
        for verdict in read_junit(_JUNIT.value).values():
            _keep(verdict, path)
    for world in _WANTED.value:
        done = read_results(path)
        run_world(world, [name for name in rows_of(world) if (world, name) not in done], path)
    found = read_results(path)
    print("\n".join(summary(found)))
    if _WRITE.value:
        replace_table(_CHECKOUT / "README.md", "short parity table", short(summary(found)))
        replace_table(_CHECKOUT / "docs" / "agrees.md", "parity table", summary(found))
        replace_table(_CHECKOUT / "docs" / "parity.md", "parity table", details(found))
    bad = [key for key, line in found.items() if key[0] != "keras" and line["result"] != "right"]
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    app.run(main)
