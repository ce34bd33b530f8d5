"""Does training on several workers give what stock Keras gives on one device?

As test_parity.py, in worker processes.
"""

from __future__ import annotations

import pytest
from parity import harness, selection, worlds
from parity.case import Case
from parity.jobs import JOB_SECS, Jobs


@pytest.mark.timeout(2 * JOB_SECS + 60)  # the first row of a job waits for all of the job
@pytest.mark.parametrize(("case", "world"), list(selection.rows_in("2 workers", "3 workers")))
def test_row(case: Case, world: str, jobs: Jobs) -> None:
    first, *others = jobs.outcomes(case, world)
    assert others
    for rank, other in enumerate(others, start=1):
        assert not harness.differences(other, first, 0) or case.refused, f"worker {rank} and 0"
    assert worlds.problems(case, first, jobs.oracle(case)) == []
