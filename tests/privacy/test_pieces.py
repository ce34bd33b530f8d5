"""Do pieces of a batch add up to it, and does nothing see more rows than a piece has?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity.worlds import local_strategy

import tfdist
from tfdist.communication import collectives
from tfdist.global_batch.position import Position
from tfdist.privacy import DPSGD, pieces

_ROWS, _COUNTED, _OFFSET = 10, 8, 20


@pytest.mark.parametrize(
    ("size", "shapes"), [(None, [10]), (10, [10]), (4, [4, 4, 4]), (5, [5, 5]), (1, [1] * 10)]
)
def test_each_row_counts_in_one_piece(size, shapes):
    seen = []

    def compute(data: Any, here: Position) -> list[Any]:
        values, nothing = data
        assert nothing is None
        seen.append(len(values))
        counts = tf.range(len(values)) < here.local_size
        assert here.padded_rows == len(values)
        if counts[0]:
            assert int(here.offset) == _OFFSET + int(values[0])
        return [tf.reduce_sum(tf.where(counts, values, 0)), tf.fill([2], here.local_size)]

    position = Position(100, _COUNTED, _OFFSET, collectives.alone(), padded_rows=_ROWS)
    values = tf.range(_ROWS, dtype=tf.float32)
    like = [tf.zeros(()), tf.zeros([2], tf.int32)]
    total, counted = pieces.sums(
        compute, (values, None), like, position=position, size=size, step=0
    )
    assert seen == shapes
    assert float(total) == sum(range(_COUNTED))
    assert counted.numpy().tolist() == [_COUNTED] * 2


class _Looking(keras.layers.Layer):
    """Notes of how many rows the batches are that it is given."""

    seen: set[int | None] = set()

    def call(self, x: Any) -> Any:
        self.seen.add(x.shape[0])
        return x


def test_no_layer_sees_more_rows_than_all_replicas_may_compute_at_once(logical_cpus):
    with local_strategy(2).scope():
        model = keras.Sequential([keras.Input((3,)), _Looking(), keras.layers.Dense(1)])
        model.compile("sgd", "mse")
    asked = DPSGD(
        l2_norm_clip=1.0, noise_multiplier=1.0, delta=1e-3, expected_batch_size=40, batch_cap=58,
        physical_batch_size=15,
    )
    x = np.random.default_rng(0).normal(size=(80, 3))
    _Looking.seen.clear()
    tfdist.fit(model, x, x[:, :1], steps_per_epoch=1, verbose=0, privacy=asked)
    assert {8, 1} <= _Looking.seen
    assert 29 not in _Looking.seen
