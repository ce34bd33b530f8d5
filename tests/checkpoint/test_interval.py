"""Is it time?"""

from __future__ import annotations

import datetime
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tfdist.checkpoint.interval import parse_every
from tfdist.cluster.wording import shorten


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


_TEXTS = st.text() | st.from_regex(r"[0-9]*[.]?[0-9]* ?[smhx]?", fullmatch=True)


@given(_TEXTS | st.integers() | st.floats() | st.timedeltas() | st.binary() | st.lists(st.none()))
@example("9" * 400 + "s")
@example("9" * 20 + "h")
@example(10**30)
@example("1" * 100_000 + "x")
@example("1." * 50_000 + "s")
@example(datetime.timedelta.max)
def test_anything_is_an_interval_or_refused(value):
    began = time.monotonic()
    try:
        every = parse_every(value)
    except ValueError as error:  # any other error is a failure
        assert f"save_every={shorten(value)}" in str(error)
        assert len(str(error)) < 400
    else:
        assert (every.steps is None) != (every.secs is None)
        told = every.steps or int(1000 * every.secs)  # what the workers compare, in 64 bits
        assert 0 <= told < 2**63
        assert not every.is_due(0, now=0.0)
    assert time.monotonic() - began < 5


@given(st.integers(1, 10**6), st.sampled_from("smh"))
def test_right_intervals_are_read(number, unit):
    assert parse_every(number).steps == number
    secs = parse_every(f"{number}{unit}").secs
    assert secs == number * {"s": 1, "m": 60, "h": 3600}[unit]
    assert parse_every(datetime.timedelta(seconds=secs)).secs == secs
    assert parse_every(f"{secs}s").secs == secs
