"""Are the examples of some steps counted as they are: uneven ends, and workers of their own?"""

from __future__ import annotations

import keras
import numpy as np
import pytest

import tfdist
from tfdist.communication.workers import Workers
from tfdist.data.inputs import Inputs
from tfdist.data.shapes import parse_shapes
from tfdist.tracking.examples import Examples, examples_of


@pytest.mark.parametrize(
    ("examples", "start", "stop", "count"),
    [
        (Examples([4], [10], 3), 0, 1, 4),
        (Examples([4], [10], 3), 2, 3, 2),  # the last of a pass
        (Examples([4], [10], 3), 2, 4, 6),
        (Examples([4], [10], 3), 0, 7, 24),
        (Examples([3, 2], [3, 8], 4), 0, 4, 11),  # the first worker has one batch
        (Examples([4]), 5, 7, 8),
    ],
)
def test_batches_between(examples, start, stop, count):
    assert examples.between(start, stop) == count


def test_arrays_and_datasets_are_known(logical_cpus):
    import tensorflow as tf

    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    workers = Workers(strategy)
    x, y = np.ones((10, 2)), np.ones(10)

    def of(*data, size):
        feed = Inputs(workers, model).feed(
            *data, batch_size=size, steps=None, shuffle=False, already_sharded=False,
            shapes=parse_shapes(None, None, is_tpu=False), all_rows=False,
        )
        return examples_of(feed.source, workers)

    assert of(x, y, size=4).between(0, 3) == 10
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    assert of(dataset.batch(5), size=None).between(0, 2) == 10
