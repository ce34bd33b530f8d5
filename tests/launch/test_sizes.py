"""Has each attempt of an elastic job as many workers as it should?

First by the numbers alone, then with real processes that do nothing; faults/test_kills.py trains.
"""

from __future__ import annotations

import os
import pathlib
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist import launch
from tfdist.cluster import contract
from tfdist.cluster.detection import detect_cluster
from tfdist.launch import sizes
from tfdist.launch.engines import local
from tfdist.launch.sizes import Attempt, Sizing, TooFew


def _sizing(fewest=2, most=4, wait_secs=10.0):
    return Sizing(fewest=fewest, most=most, wait_secs=wait_secs)


def _lost(size):
    return Attempt(size=size, was_started=True, num_absent=0, was_asked=False)


def _asked(size):
    return Attempt(size=size, was_started=True, num_absent=0, was_asked=True)


def _not_started(size, num_absent):
    return Attempt(size=size, was_started=False, num_absent=num_absent, was_asked=False)


@pytest.mark.parametrize(("places", "size"), [(1, 0), (2, 2), (3, 3), (4, 4), (9, 4), (None, 4)])
def test_it_begins_with_those_that_are_there(places, size):
    assert _sizing().next_size(places, now=0.0) == size


def test_it_never_goes_under_the_minimum():
    sizing = _sizing()
    assert [sizing.next_size(1, now=now) for now in (0.0, 9.9)] == [0, 0]
    with pytest.raises(TooFew, match="places for 1 workers, and the job needs 2 at least"):
        sizing.next_size(1, now=10.0)


def test_lost_place_is_waited_for_and_then_done_without():
    sizing = _sizing()
    assert sizing.next_size(4, now=0.0) == 4
    sizing.take(_lost(4), 3, now=50.0)
    assert [sizing.next_size(3, now=now) for now in (50.0, 59.9, 60.0)] == [0, 0, 3]


def test_lost_place_that_comes_back_is_taken_at_once():
    sizing = _sizing()
    sizing.take(_lost(4), 3, now=50.0)
    assert [sizing.next_size(places, now=51.0) for places in (3, 4)] == [0, 4]


def test_after_it_was_asked_it_begins_at_once():
    sizing = _sizing()
    sizing.take(_asked(4), 3, now=50.0)
    assert sizing.next_size(3, now=50.0) == 3


@pytest.mark.parametrize(
    ("ended", "places", "costs"),
    [
        pytest.param(_lost(4), 4, True, id="its place is still there"),
        pytest.param(_lost(4), 3, False, id="its place has gone"),
        pytest.param(_lost(3), 4, True, id="there are more"),
        pytest.param(_lost(4), None, True, id="nobody knows"),
        pytest.param(_asked(3), 4, False, id="it was asked"),
        pytest.param(_not_started(4, 1), None, False, id="it did not begin"),
    ],
)
def test_what_costs_a_restart(ended, places, costs):
    assert _sizing().take(ended, places, now=0.0) is costs


@pytest.mark.parametrize(
    ("seen", "asked_at"),
    [
        pytest.param([3] * 9, None, id="nothing changes"),
        pytest.param([3, 3, 4, 4, 4, 4, 4], 5, id="one more, for three seconds"),
        pytest.param([3, 2, 2, 2, 2, 2], 4, id="one less"),
        pytest.param([3, 4, 4, 3, 4, 4, 3], None, id="one comes and goes"),
        pytest.param([3, 9, 9, 9, 9, 9], 4, id="more than can be used"),
        pytest.param([3, 1, 1, 1, 1, 1], 4, id="too few"),
        pytest.param([None] * 9, None, id="nobody knows"),
    ],
)
def test_a_change_has_to_last(seen, asked_at):
    sizing = _sizing()
    assert sizing.next_size(3, now=0.0) == 3
    asked = [now for now, places in enumerate(seen) if sizing.change(3, places, now=float(now))]
    assert (asked[0] if asked else None) == asked_at


@pytest.mark.parametrize(
    ("num_absent", "sizes_had"),
    [
        pytest.param(1, [4, 4, 3], id="one did not come"),
        pytest.param(4, [4, 4, 3], id="all or nothing"),
        pytest.param(2, [4, 4, 2], id="two did not come"),
    ],
)
def test_where_nobody_knows_it_asks_for_all_and_then_for_fewer(num_absent, sizes_had):
    sizing, found = _sizing(), []
    for now in (0.0, 6.0, 12.0):
        found.append(sizing.next_size(None, now=now))
        sizing.take(_not_started(found[-1], num_absent), None, now=now + 5.0)
    assert found == sizes_had
    sizing.take(_lost(found[-1]), None, now=90.0)
    assert sizing.next_size(None, now=90.0) == 4, "there may be more again"


def test_where_nobody_knows_too_few_are_told():
    sizing = _sizing(fewest=4)
    assert sizing.next_size(None, now=0.0) == 4
    sizing.take(_not_started(4, 1), None, now=20.0)
    with pytest.raises(TooFew):
        sizing.next_size(None, now=20.0)


def test_place_that_is_named_but_cannot_be_had_is_forgotten_until_the_number_changes():
    sizing = _sizing()
    assert sizing.next_size(4, now=0.0) == 4
    sizing.take(_not_started(4, 1), 4, now=11.0)
    assert sizing.next_size(4, now=11.0) == 3
    assert not any(sizing.change(3, 4, now=now) for now in (12.0, 20.0, 30.0))
    assert not sizing.change(3, 5, now=40.0)
    assert sizing.change(3, 5, now=44.0)


_STEPS = st.tuples(st.none() | st.integers(0, 9), st.floats(0.1, 30.0), st.booleans())


@given(st.lists(_STEPS, max_size=30))
@settings(max_examples=100)
def test_the_number_is_always_between_both(steps):
    sizing, now = _sizing(), 0.0
    for places, secs, was_started in steps:
        now += secs
        try:
            size = sizing.next_size(places, now=now)
        except TooFew:
            return
        assert size == 0 or 2 <= size <= 4
        assert size <= (4 if places is None else places)
        if size:
            sizing.take(Attempt(size, was_started, 0 if was_started else 1, False), places, now=now)


# ----------------------------------------------------------------------------- with real processes


def _work(folder):
    """Takes a place away and dies with it, gives it back, and leaves when it is asked to."""
    found, places = detect_cluster(), pathlib.Path(folder, "places")
    count = int(os.environ[contract.RESTART_COUNT])
    if count == 0 and found.rank == 1:
        places.write_text("localhost:2\n")
        os.kill(os.getpid(), 9)
    if count == 1 and found.rank == 0:
        places.write_text("localhost:3\n")
    deadline = time.monotonic() + 30
    while count < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
        if contract.is_asked_to_leave(os.environ):
            time.sleep(0.2 * found.rank)  # they do not leave at the same moment
            raise contract.Saved
    return found.size, count


@pytest.mark.slow
def test_it_shrinks_and_grows(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(sizes, "STEADY_SECS", 0.3)
    (tmp_path / "places").write_text("localhost:3\n")
    found = launch.run(
        _work, workers="2:9", wait_secs=0.5, discover_hosts=f"cat {tmp_path}/places",
        args=(str(tmp_path),),
    )
    assert found == [(3, 2)] * 3
    said = capfd.readouterr().err
    assert "worker 1 failed first: killed by SIGKILL (the system may have run out of" in said
    assert "the number of workers changes: there are places for 3 workers now, and 2 are" in said


def _leave_at_first():
    if os.environ[contract.RESTART_COUNT] == "0":
        raise contract.Saved
    return detect_cluster().size


def test_notice_to_a_host_costs_no_restart(capfd):
    """As a spot machine gets it: its worker, and so all, save and leave."""
    assert launch.run(_leave_at_first, workers="1:2") == [2, 2]
    assert "; the run is saved, the workers have left" in capfd.readouterr().err
    with pytest.raises(RuntimeError, match="^preempted: "):
        launch.run(_leave_at_first, workers=2)


def _size():
    return detect_cluster().size


def test_worker_that_the_system_does_not_start_is_done_without(monkeypatch, capfd):
    add = local.Processes.add

    def refuse(self, *args, **kwargs):
        if len(self._workers) == 2:
            raise BlockingIOError(11, "Resource temporarily unavailable")
        add(self, *args, **kwargs)

    monkeypatch.setattr(local.Processes, "add", refuse)
    assert launch.run(_size, workers="2:3", wait_secs=0.5) == [2, 2]
    told = "a worker cannot be started, after 2 others: [Errno 11] Resource temporarily unavailable"
    assert told in capfd.readouterr().err
    with pytest.raises(OSError, match="after 2 others"):
        launch.run(_size, workers=3)


def test_too_few_places_end_the_job(tmp_path):
    with pytest.raises(RuntimeError, match="places for 1 workers, and the job needs 2 at least"):
        launch.run(_size, workers="2:3", wait_secs=0.5, discover_hosts="echo localhost:1")
