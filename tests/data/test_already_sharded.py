"""tests of tfdist/data/already_sharded.py; what streams of shares give is in test_adapters.py"""

from __future__ import annotations

import pytest
import tensorflow as tf

from tfdist.communication.share import Share
from tfdist.data import already_sharded


@pytest.mark.parametrize(
    ("share", "batch_size", "own"),
    [
        (Share(0, 1, 2), 7, 4),
        (Share(1, 1, 2), 7, 3),
        (Share(2, 2, 4), 7, 3),
        (Share(0, 1, 2), None, 16),
        (Share(0, 2, 2), 5, 5),
    ],
)
def test_batch_size_stays_the_global_one_for_shares(share, batch_size, own):
    assert already_sharded.batch_size_of(share, batch_size) == own


def test_a_batch_without_a_row_for_a_worker_is_refused():
    with pytest.raises(ValueError, match="batch_size=1 .*at least one example a worker"):
        already_sharded.batch_size_of(Share(1, 1, 2), 1)


def test_own_rows_alone():
    sizes = already_sharded.only_own(Share(2, 2, 6), tf.constant(5))
    assert sizes.numpy().tolist() == [0, 0, 3, 2, 0, 0]
