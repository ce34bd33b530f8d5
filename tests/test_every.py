"""Is it time?"""

from __future__ import annotations

import datetime

import pytest

from tfdist.every import parse_every


@pytest.mark.parametrize(
    ("given", "steps", "secs"),
    [
        (None, None, None),
        (1, 1, None),
        (100, 100, None),
        ("90s", None, 90.0),
        ("10m", None, 600.0),
        ("1.5 h", None, 5400.0),
        (datetime.timedelta(minutes=2), None, 120.0),
    ],
)
def test_parse(given, steps, secs):
    every = parse_every(given)
    assert (every.steps, every.secs) == (steps, secs)


@pytest.mark.parametrize(
    "given",
    [0, -1, True, 1.5, 60.0, "", "60", "s", "-1s", "0s", "1d", "nan s", datetime.timedelta(0), [1]],
)
def test_refused(given):
    with pytest.raises(ValueError, match="save_every=.* must be a whole number of steps from 1"):
        parse_every(given)


def test_steps():
    every = parse_every(10)
    assert [step for step in range(1, 35) if _fires(every, step)] == [10, 20, 30]
    assert [every.steps_left(step) for step in (30, 31, 39)] == [10, 9, 1]


def test_steps_that_are_jumped_over():
    every = parse_every(10)
    assert [step for step in (4, 8, 12, 16, 28, 29, 31) if _fires(every, step)] == [12, 28, 31]


def test_steps_of_a_run_that_goes_on():
    every = parse_every(10)
    every.restart(25, now=0.0)
    assert [step for step in range(26, 42) if _fires(every, step)] == [30, 40]


def test_time():
    every = parse_every("10s")
    every.restart(0, now=100.0)
    fired = []
    for now in range(100, 145, 3):
        if every.is_due(1, now=float(now)):
            every.restart(1, now=float(now))
            fired.append(now)
    assert fired == [112, 124, 136]
    assert every.steps_left(5) is None


def test_never():
    every = parse_every(None)
    assert not every.is_due(10**9, now=1e9)
    assert every.steps_left(1) is None


def _fires(every, step) -> bool:
    is_due = every.is_due(step, now=0.0)
    if is_due:
        every.restart(step, now=0.0)
    return is_due
