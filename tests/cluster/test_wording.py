"""tests of tfdist/cluster/wording.py"""

from __future__ import annotations

import pytest

from tfdist.cluster.wording import name_workers


@pytest.mark.parametrize(
    ("ranks", "expected"),
    [
        ([3], "worker 3"),
        ([0, 1], "workers 0-1"),
        ([5, 0, 2, 1], "workers 0-2, 5"),
    ],
)
def test_name_workers(ranks, expected):
    assert name_workers(ranks) == expected
