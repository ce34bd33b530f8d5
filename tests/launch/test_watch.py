"""tests of tfdist/launch/watch.py; what an attempt makes of it is in test_failures.py"""

from __future__ import annotations

import time
import types

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist.cluster import contract
from tfdist.cluster.progress import Progress, read_progress
from tfdist.launch import failures
from tfdist.launch.job import Job
from tfdist.launch.watch import Ended, StallWatch, Watch


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


def test_clock_that_is_set_back_is_not_waited_for(tmp_path, monkeypatch):
    roll_call = types.SimpleNamespace(present=(0, 1))
    watch = Watch(Job(workers=2), roll_call, str(tmp_path))
    ours = time.monotonic()
    contract.write_failure(str(tmp_path), rank=0, at=ours - 3.5, exit_code=1, traceback="")
    monkeypatch.setattr(time, "time", lambda: 0.0)  # somebody has set it back
    watch.look()
    assert watch.is_over, "the words of a worker that hangs after its exception are awaited for 3 s"


@pytest.mark.parametrize(
    ("has_saved", "told"),
    [(True, "the run is saved"), (False, "whether they have saved, they did not say")],
)
def test_only_who_has_saved_says_so(tmp_path, has_saved, told):
    watch = Watch(Job(workers=1), types.SimpleNamespace(present=(0,), is_complete=True),
                  str(tmp_path))  # fmt: skip
    contract.write_failure(
        str(tmp_path), rank=0, at=1.0, exit_code=75, traceback="", has_saved=has_saved
    )
    watch.look()
    watch.take(Ended(0, 75, 1.0))
    assert told in failures.headline(watch.outcome())


@pytest.mark.parametrize(("ended", "absent"), [([2], (2,)), ([], (1, 2))])
def test_who_did_not_come(tmp_path, ended, absent):
    """Once one has ended without having come, others may still be on their way."""
    roll_call = types.SimpleNamespace(present=(0,), is_complete=False)
    watch = Watch(Job(workers=3), roll_call, str(tmp_path))
    for rank in ended:
        watch.take(Ended(rank, 1, 1.0))
    assert watch.outcome().absent == absent


def test_no_limit_finds_nothing(tmp_path):
    watch = StallWatch(str(tmp_path), workers=1, stall_secs=None)
    with _progress(tmp_path):
        assert [watch.stalled(now=now) for now in (0.0, 1e9, 2e9)] == [[], [], []]


@given(st.text() | st.binary())
@settings(max_examples=40)
def test_any_record_of_a_failure_is_read_or_none(tmp_path_factory, content):
    """A worker's program can write into its private folder, too."""
    folder = tmp_path_factory.mktemp("run")
    data = content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass")
    (folder / "failure_0.json").write_bytes(data)
    (folder / "progress_0").write_bytes(data)
    found = failures.read_failure(str(folder), 0)
    assert found is None or found.rank == 0
    assert isinstance(read_progress(str(folder), 0), int)
