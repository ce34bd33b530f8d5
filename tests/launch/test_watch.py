"""tests of tfdist/launch/watch.py; what an attempt makes of it is in test_failures.py"""

from __future__ import annotations

import pytest

from tfdist.cluster import contract
from tfdist.cluster.progress import Progress
from tfdist.launch.watch import StallWatch


def _progress(folder, rank=0):
    return Progress({contract.RUN_DIR: str(folder), contract.RANK: str(rank)})


@pytest.mark.parametrize(
    ("ticks", "late"),
    [
        pytest.param({}, [], id="nobody is in a run"),
        pytest.param({0: [0.0]}, [0], id="one is stuck, the other one has ended"),
        pytest.param({0: [0.0, 1.0], 1: [0.0]}, [1], id="one waits for the other"),
        pytest.param({0: [0.0, 1.0], 1: [0.0, 1.0]}, [0, 1], id="all wait for data"),
        pytest.param({0: [0.0, 3.0, 8.0], 1: [0.0, 3.0, 8.0]}, [], id="slow steps"),
    ],
)
def test_the_one_that_holds_up_the_others_is_found(tmp_path, ticks, late):
    progress = {rank: _progress(tmp_path, rank) for rank in ticks}
    watch = StallWatch(str(tmp_path), workers=2, stall_secs=6.0)
    found = []
    for now in range(10):
        for rank, times in ticks.items():
            if now == times[0]:
                progress[rank].__enter__()
            elif now in times:
                progress[rank].tick()
        found = found or watch.stalled(now=float(now))
    assert found == late
    for entered in progress.values():
        entered.__exit__()


def test_no_limit_finds_nothing(tmp_path):
    watch = StallWatch(str(tmp_path), workers=1, stall_secs=None)
    with _progress(tmp_path):
        assert [watch.stalled(now=now) for now in (0.0, 1e9, 2e9)] == [[], [], []]
