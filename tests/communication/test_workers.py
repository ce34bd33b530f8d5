"""Do bytes come to the other workers as they were?"""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import tensorflow as tf

from tfdist import testing
from tfdist.communication.workers import Workers

# Nothing, less than a word, a word and a bit, more than travels at a time.
_SIZES = (0, 1, 5, 17 * 2**20 + 3)


def _payload(size: int) -> bytes:
    return np.random.default_rng(size).bytes(size)


def _on_worker() -> tuple[list[str], list[list[int]], bool]:
    import tfdist

    strategy = tfdist.get_strategy("cpu")
    workers = Workers(strategy)
    rank = workers.rank
    sent = [_payload(size) if workers.is_chief else b"no" for size in _SIZES]
    told = [hashlib.sha256(workers.from_chief(payload)).hexdigest() for payload in sent]
    own = np.array([[255, 128 + rank, 0, 1, rank]], np.uint8)
    return told, workers.rows(own).tolist(), workers.is_chief


@pytest.mark.slow
def test_two_workers():
    found = testing.run_workers(_on_worker, workers=2)
    expected = [hashlib.sha256(_payload(size)).hexdigest() for size in _SIZES]
    assert [told for told, _, _ in found] == [expected, expected]
    assert [rows for _, rows, _ in found] == [[[255, 128, 0, 1, 0], [255, 129, 0, 1, 1]]] * 2
    assert [is_chief for _, _, is_chief in found] == [True, False]


@pytest.mark.parametrize("replicas", [1, 2])
def test_one_worker_asks_nobody(replicas):
    strategy = tf.distribute.MirroredStrategy([f"/cpu:{index}" for index in range(replicas)])
    workers = Workers(strategy)
    rows = np.arange(3 * replicas, dtype=np.uint8).reshape(replicas, 3)
    assert workers.rows(rows).tolist() == rows.tolist()
    assert workers.from_chief(b"\0\xff") == b"\0\xff"
    assert (workers.is_chief, workers.has_others) == (True, False)
