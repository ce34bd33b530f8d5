"""Is a training right wherever two values of two axes meet? The smallest set that has all pairs.

    python -m parity.pairs          all of it
    python -m parity.pairs 3/48     part 3 (from 0) of 48
    python -m parity.pairs NAME     a training, by the name that the other two print
"""

from __future__ import annotations

import functools
import pathlib
import sys
import tempfile
from collections.abc import Iterator, Sequence

from parity import axes, jobs, trainings, verdicts
from parity.axes import Training


@functools.cache
def covering() -> tuple[Training, ...]:
    """Returns trainings in which each two values that go together meet; the same ones each time."""
    import covertable  # it is needed to choose trainings, and not to run them

    def is_one_of(axis: str, values: tuple[str, ...]) -> dict[str, object]:
        return {"operator": "in", "left": axis, "values": list(values)}

    constraints = [
        {
            "operator": "not",
            "condition": {
                "operator": "and", "conditions": [is_one_of(*rule.values), is_one_of(*rule.others)],
            },
        }
        for rule in axes.EXCLUDED
    ]
    return tuple(covertable.make(axes.AXES, constraints=constraints))


def part_of(number: int, parts: int) -> list[Training]:
    """Returns a part of the set."""
    return list(covering()[number::parts])


def judged(chosen: Sequence[Training]) -> Iterator[verdicts.Verdict]:
    """Runs trainings in their worlds, and by stock Keras on one device; gives their verdicts."""
    for world in axes.AXES["world"]:
        cases = [trainings.case_of(one) for one in chosen if one["world"] == world]
        for start in range(0, len(cases), jobs.ROWS_A_JOB):
            some = cases[start : start + jobs.ROWS_A_JOB]
            names = [case.name for case in some]
            with tempfile.TemporaryDirectory() as folder:
                path = pathlib.Path(folder)
                here = None if world.endswith("workers") else path
                outcomes = jobs.run(names, world=world, oracles_folder=here)
                expected = jobs.computed(names, path)
            for case in some:
                of_ranks = [
                    verdicts.judge(
                        case, outcome, expected[case.name], world=world, is_stock=False
                    )
                    for outcome in outcomes[case.name]
                ]
                wrong = (one for one in of_ranks if one.result != "right")
                yield next(wrong, of_ranks[0])


def summary(ran: Sequence[Training]) -> str:
    """Says how many pairs there are, and how many of them some trainings have."""
    everything = axes.all_pairs()
    found = {pair for training in ran for pair in axes.pairs_of(training)}
    return (
        f"{len(found & everything)} of {len(everything)} pairs of values ran in {len(ran)} of "
        f"{len(covering())} trainings; {len(axes.excluded_pairs())} pairs are left out by name"
    )


def main(which: str = "0/1") -> None:
    """Runs trainings; ends with an error where one is not right."""
    is_name = " | " in which
    chosen = [trainings.training_of(which)] if is_name else part_of(*map(int, which.split("/")))
    bad = 0
    for verdict in judged(chosen):
        bad += verdict.result != "right"
        print(f"{verdict.result:6} {verdict.row}  {verdict.detail}", flush=True)
    print(summary(chosen))
    sys.exit(f"{bad} trainings are not right" if bad else 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
