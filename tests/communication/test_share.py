"""tests of tfdist/communication/share.py"""

from __future__ import annotations

import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tfdist.communication.share import Share, bounds, share_of


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


def test_share_of_a_strategy():
    assert share_of(tf.distribute.get_strategy()) == Share(0, 1, 1)
    mirrored = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1", "/cpu:2"])
    assert share_of(mirrored) == Share(0, 3, 3)
