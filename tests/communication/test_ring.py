"""Which gradients travel together, and which first?"""

from __future__ import annotations

from tfdist.communication.ring import buckets


def test_the_last_come_first_and_small_ones_together() -> None:
    kernels = [("float32", 100), ("float32", 4)] * 3
    assert buckets(kernels, 50) == [[4], [2], [5, 3, 1], [0]]
    assert buckets(kernels, 4) == [[5], [4], [3], [2], [1], [0]]
    assert buckets(kernels, 1000) == [[5, 4, 3, 2, 1, 0]]


def test_a_bucket_is_no_larger_than_asked_for_and_of_one_type() -> None:
    mixed = [("float32", 30), ("float64", 8), ("float32", 30), ("float32", 20), ("float64", 8)]
    assert buckets(mixed, 50) == [[3, 2], [4, 1], [0]]
    assert buckets([("float32", None), ("float32", 4), ("float32", 4)], 50) == [[2, 1], [0]]
    assert buckets([], 50) == []
