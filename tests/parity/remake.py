"""Makes the kept outcomes of stock Keras anew; see stored.py.

    python -m parity.remake          those that do not count for what is installed and written here
    python -m parity.remake --all    all of them
"""

from __future__ import annotations

import concurrent.futures
import pathlib
import sys
import tempfile

from parity import jobs, stored

_JOBS_AT_ONCE = 2


def main(arguments: list[str]) -> None:
    """Makes the outcomes of whole modules, since their numbers share a file."""
    if arguments not in ([], ["--all"]):
        raise SystemExit(f"unknown arguments {arguments}; --all is the only one")
    wanted = set(stored.stale())
    names = {
        name: stored.kept_rows(name)
        for name in stored.modules()
        if arguments or wanted & set(stored.kept_rows(name))
    }
    rows = [row for of_module in names.values() for row in of_module]
    parts = [rows[at : at + jobs.ROWS_A_JOB] for at in range(0, len(rows), jobs.ROWS_A_JOB)]
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(_JOBS_AT_ONCE) as pool,
    ):
        made = pool.map(lambda part: jobs.computed(part, pathlib.Path(folder)), parts)
        outcomes = {row: outcome for part in made for row, outcome in part.items()}
    lost = [row for row, outcome in outcomes.items() if outcome.error[0] in jobs.NO_OUTCOME]
    if lost:
        raise SystemExit(f"no outcome of {lost}: {outcomes[lost[0]].error}")
    for name, of_module in names.items():
        stored.write(name, {row: outcomes[row] for row in of_module})
    print(f"{len(rows)} outcomes of {len(names)} modules made; {len(stored.stale())} are stale")


if __name__ == "__main__":
    main(sys.argv[1:])
