"""tests of tfdist/global_batch/position.py"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tfdist.communication.share import bounds
from tfdist.global_batch import position
from tfdist.global_batch.position import Position, at, current


def _position(**facts: object) -> Position:
    usual = {"global_size": 8, "local_size": 3, "offset": 2, "collectives": None}
    return Position(**{**usual, **facts})


@given(size=st.integers(0, 10_000), replicas=st.integers(1, 300))
def test_bounds_are_a_partition(size: int, replicas: int) -> None:
    rows = [bounds(size, replica, replicas) for replica in range(replicas)]
    assert rows[0][0] == 0
    assert rows[-1][1] == size
    assert all(before[1] == after[0] for before, after in zip(rows, rows[1:], strict=False))


@given(size=st.integers(0, 10_000), replicas=st.integers(1, 300))
def test_bounds_are_even(size: int, replicas: int) -> None:
    counts = [stop - start for start, stop in (bounds(size, r, replicas) for r in range(replicas))]
    assert max(counts) - min(counts) <= 1
    assert counts[0] == max(counts), "replica 0 is the last to stay empty"


@pytest.mark.parametrize(
    ("size", "replicas", "expected"),
    [
        (8, 2, [(0, 4), (4, 8)]),
        (5, 2, [(0, 3), (3, 5)]),
        (1, 2, [(0, 1), (1, 1)]),
        (0, 2, [(0, 0), (0, 0)]),
        (2, 4, [(0, 1), (1, 1), (1, 2), (2, 2)]),
        (7, 3, [(0, 3), (3, 5), (5, 7)]),
        (7, 1, [(0, 7)]),
    ],
)
def test_bounds(size: int, replicas: int, expected: list[tuple[int, int]]) -> None:
    assert [bounds(size, replica, replicas) for replica in range(replicas)] == expected


def test_bounds_of_tensors() -> None:
    for size in range(12):
        for replica in range(4):
            rows = bounds(tf.constant(size), tf.constant(replica), 4)
            assert tuple(int(row) for row in rows) == bounds(size, replica, 4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_fraction(dtype: str) -> None:
    fraction = _position(local_size=tf.constant(3), global_size=tf.constant(8)).fraction(dtype)
    assert fraction.dtype == dtype
    assert float(fraction) == 0.375


def test_fractions_of_all_replicas_sum_to_one() -> None:
    parts = [bounds(7, replica, 4) for replica in range(4)]
    shares = [_position(global_size=7, local_size=b - a).fraction(tf.float64) for a, b in parts]
    np.testing.assert_allclose(sum(shares), 1, rtol=1e-15)


def test_nobody_has_a_position_outside_of_a_step() -> None:
    assert current() is None


def test_positions_nest_and_come_back() -> None:
    outer, inner = _position(), _position(offset=5)
    with at(outer):
        with at(inner):
            assert current() is inner
        with at(None):
            assert current() is None
        assert current() is outer
    assert current() is None


def test_position_comes_back_after_an_error() -> None:
    with pytest.raises(KeyError), at(_position()):
        raise KeyError
    assert current() is None


def test_each_thread_has_its_own() -> None:
    """MirroredStrategy traces each replica in a thread of its own."""
    seen = []
    with at(_position()):
        thread = threading.Thread(target=lambda: seen.append(position.current()))
        thread.start()
        thread.join(10)
    assert seen == [None]
