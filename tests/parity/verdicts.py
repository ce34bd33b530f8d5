"""What came of a row in a world: "right", "wrong" or "fails", and by how much or with what?

    python -m parity.verdicts --stock 2 ROW ROW     rows by stock Keras, on two replicas
    python -m parity.verdicts "2 workers" ROW ROW   rows by tfdist, on two workers

Rows of one process come out one JSON line each as they end, so that whoever reads them knows which
row it was that hung or brought the process down.
"""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Iterable, Iterator

from parity import harness, jobs, stored, table, worlds
from parity.case import Case
from tfdist import testing

LOGICAL_CPUS = 4


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What came of one row in one world.

    Attributes:
        row: Name of the row.
        world: One of `case.WORLDS`.
        is_stock: Whether stock Keras trained, or tfdist did. Stock Keras gets batches of 8, which
            two replicas divide, where the row leaves the size open: of others it fails at once.
        result: "right", "wrong" or "fails".
        detail: The first differences, or the error.
    """

    row: str
    world: str
    is_stock: bool
    result: str
    detail: str = ""


def judge(
    case: Case,
    outcome: harness.Outcome,
    expected: harness.Outcome,
    *,
    world: str,
    is_stock: bool,
) -> Verdict:
    """Compares a row's outcome with the expected one: of stock Keras on one device."""
    try:
        found = worlds.problems(case, outcome, expected)
    except AssertionError as error:  # the row itself is wrong: one device does not do it
        return Verdict(case.name, world, is_stock, "fails", str(error)[:300])
    if not found:
        return Verdict(case.name, world, is_stock, "right")
    if outcome.error != ("", ""):
        kind, text = outcome.error
        words = " ".join(re.sub(r"\x1b\[\d*m", "", text).split())
        return Verdict(case.name, world, is_stock, "fails", f"{kind}: {words[:200]}")
    return Verdict(case.name, world, is_stock, "wrong", "; ".join(found[:3])[:300])


def verdicts(rows: Iterable[Case], *, world: str, is_stock: bool) -> Iterator[Verdict]:
    """Gives the verdict of each row, in a process whose TensorFlow has not started yet."""
    if world.endswith("workers"):
        yield from _of_workers(list(rows), world, is_stock=is_stock)
        return
    strategy = worlds.local_strategy(int(world))
    for row in rows:
        case = dataclasses.replace(row, batch_size=8) if is_stock else row
        outcome = harness.run(case, harness.api_of(strategy, case, is_stock=is_stock))
        yield judge(case, outcome, stored.oracle(case), world=world, is_stock=is_stock)


def _of_workers(rows: list[Case], world: str, *, is_stock: bool) -> Iterator[Verdict]:
    outcomes = jobs.run([case.name for case in rows], world=world, is_stock=is_stock)
    for case in rows:
        expected = stored.oracle(case)
        of_ranks = [
            judge(case, outcome, expected, world=world, is_stock=is_stock)
            for outcome in outcomes[case.name]
        ]
        yield next((verdict for verdict in of_ranks if verdict.result != "right"), of_ranks[0])


def main(arguments: list[str]) -> None:
    """Judges the rows that the arguments name."""
    is_stock = arguments[0] == "--stock"
    world, *wanted = arguments[is_stock:]
    testing.logical_cpus(LOGICAL_CPUS)
    rows = [case for case in table.ROWS if case.name in wanted]
    for verdict in verdicts(rows, world=world, is_stock=is_stock):
        print(json.dumps(dataclasses.asdict(verdict)), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
