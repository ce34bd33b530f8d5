"""Is a link that changes data found before the first step?"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from tfdist.communication import link_check
from tfdist.communication.workers import Workers


def _whole(num_replicas, num_local, length=50):
    rows = np.stack([link_check.contribution(r, length) for r in range(num_replicas)])
    return np.stack([rows.sum(axis=0)] * num_local), np.stack([rows] * num_local)


@pytest.mark.parametrize("num_replicas", [1, 2, 17, 256])
def test_sums_are_exact(num_replicas):
    sums, rows = _whole(num_replicas, 2)
    assert sums.dtype == np.float32
    np.testing.assert_array_equal(sums[0], rows[0].astype(np.float64).sum(axis=0))
    assert link_check.faults(sums, rows, first_replica=0) == []


def test_what_arrived_changed_is_told():
    sums, rows = _whole(4, 2)
    sums[1, 7] += 1
    rows[0, 3, 5:9] = 0
    rows[1, 0, 0] = np.nan
    assert link_check.faults(sums, rows, first_replica=2) == [
        "from replica 3 to 2, 4 of 50 are wrong",
        "of the sum, 1 of 50 are wrong on replica 3",
        "from replica 0 to 3, 1 of 50 are wrong",
    ]


def test_replicas_bring_what_is_expected_of_them():
    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1", "/cpu:2"])
    sums, rows = link_check.exchanged(strategy)
    assert (sums.shape, rows.shape) == ((3, 2**16), (3, 3, 2**16))
    assert link_check.faults(sums, rows, first_replica=0) == []


def test_it_is_done_once_where_there_are_links(monkeypatch):
    calls = []

    def exchanged(strategy):
        calls.append(strategy)
        sums, rows = _whole(2, 2)
        sums[0, 0] += len(calls) == 1
        return sums, rows

    strategy = tf.distribute.MirroredStrategy(["/cpu:0", "/cpu:1"])
    monkeypatch.setattr(link_check, "exchanged", exchanged)
    link_check.check_links(Workers(strategy))
    assert calls == []  # one memory
    monkeypatch.setattr(link_check, "_has_links", lambda *_: True)
    with pytest.raises(RuntimeError, match="links between the replicas change data: of the sum, 1"):
        link_check.check_links(Workers(strategy))
    link_check.check_links(Workers(strategy))
    link_check.check_links(Workers(strategy))
    assert len(calls) == 2
