"""tests of tfdist/global_batch/position.py"""

from __future__ import annotations

import threading

import numpy as np
import pytest
import tensorflow as tf

from tfdist.communication.share import bounds
from tfdist.global_batch import position
from tfdist.global_batch.position import Position, at, current


def _position(**facts: object) -> Position:
    usual = {"global_size": 8, "local_size": 3, "offset": 2, "collectives": None}
    return Position(**{**usual, **facts})


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
