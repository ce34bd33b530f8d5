"""Are workers that mean something else refused, by the first fact that differs, and only those?"""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pytest
from two_workers import refused

from tfdist.communication.agreement import encoded, require_alike

_HOW = {"what": "were called apart", "cure": "Do the same."}


def _told(first, second):
    def given(facts):
        return lambda workers: require_alike(facts, workers, **_HOW)

    one, other = refused(given(first), given(second))
    assert one == other, "all workers are told the same"
    return one


@pytest.mark.parametrize(
    ("first", "second", "words"),
    [
        ({"a": 1, "b": 2}, {"a": 1, "b": 3}, "worker 0: b is 2; worker 1: b is 3"),
        ({"a": None}, {"a": False}, "worker 0: a is null; worker 1: a is false"),
        ({"a": [1, 2]}, {"a": [1, 3]}, "worker 0: a is [1, 2]; worker 1: a is [1, 3]"),
        ({"a": 1}, {"a": 1, "b": "x"}, "worker 0: b is absent; worker 1: b is x"),
        ({"a": 1, "b": "x"}, {"a": 1}, "worker 0: b is x; worker 1: b is absent"),
        (
            {"model": {"layers": [{"units": 3}, {"units": 4}]}},
            {"model": {"layers": [{"units": 3}, {"units": 5}]}},
            "worker 0: model.layers[1].units is 4; worker 1: model.layers[1].units is 5",
        ),
        (
            {"model": encoded({"rate": 0.5})},
            {"model": encoded({"rate": 0.25})},
            "worker 0: model.rate is 0.5; worker 1: model.rate is 0.25",
        ),
        ({"f": len}, {"f": max}, "worker 0: f is len; worker 1: f is max"),
    ],
)
def test_the_first_difference_is_named(first, second, words):
    assert _told(first, second) == f"The workers were called apart: {words}. Do the same."


def test_long_texts_are_shown_where_they_differ():
    found = _told({"a": "x" * 5000 + "1"}, {"a": "x" * 5000 + "2"})
    assert "x1;" in found
    assert "x2. Do" in found
    assert len(found) < 400


@dataclasses.dataclass
class _Thing:
    value: int


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"a": 1}, {"a": np.int64(1)}),
        ({"a": (1, 2)}, {"a": [1, np.int32(2)]}),
        ({"a": {1: 0.5}}, {"a": {"1": np.float64(0.5)}}),
        ({"a": object()}, {"a": object()}),
        ({"a": f"<function f at {0x7f0011223344:#x}>"}, {"a": f"<function f at {2**40:#x}>"}),
        ({"a": lambda: 1}, {"a": lambda: 2}),
        ({"a": functools.partial(print, 1)}, {"a": functools.partial(print, 2)}),
        ({"a": _Thing(1)}, {"a": _Thing(1)}),
        ({"a": float("nan")}, {"a": float("nan")}),
        ({}, {}),
    ],
)
def test_what_differs_harmlessly_is_no_difference(first, second):
    assert _told(first, second) == ""
