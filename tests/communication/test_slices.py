"""Are sums of slices, and gathered slices, what sums of whole tensors are? NumPy is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import worlds
from support.sums_in_parts import SHAPES, differences, differences_of_workers

from tfdist.communication import slices
from tfdist.communication.compression import Reduction
from tfdist.communication.slices import Slices


@pytest.mark.parametrize("parts", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("shape", [(), (1,), (4,), (3, 2), (5, 1, 2)])
@pytest.mark.parametrize("block", [2, slices.BLOCK])
def test_a_tensor_is_cut_and_put_together(shape, parts, block, monkeypatch):
    monkeypatch.setattr(slices, "BLOCK", block)
    tensor = tf.reshape(tf.range(1, 1 + int(np.prod(shape))), shape)
    cut = slices.pieces(tensor, parts)
    assert sum(piece.shape[1] for piece in cut) == slices.length(int(np.prod(shape)), parts)
    np.testing.assert_array_equal(slices.whole(cut, shape), tensor)
    for replica in range(parts):
        own = np.concatenate([piece[replica] for piece in cut])
        np.testing.assert_array_equal(slices.own_slice(tensor, replica, parts), own)


def _summing(strategy: Any) -> Any:
    """Sums tensors in slices, and gathers these."""
    held = Slices(strategy)
    assert held.parts == strategy.num_replicas_in_sync
    sizes = [int(np.prod(shape)) for shape, _ in SHAPES]

    def summed(tensors: Any, reduction: Reduction) -> Any:
        every = held.gathered(held.summed(tensors, reduction), sizes)
        return [slices.whole(one, shape) for one, (shape, _) in zip(every, SHAPES, strict=True)]

    return held, summed

@pytest.mark.slow
def test_replicas_of_one_process(logical_cpus):
    assert max(differences(_summing, worlds.local_strategy(3))) == 0


@pytest.mark.slow
def test_workers():
    for found in differences_of_workers(_summing):
        assert found == [[0.0] * len(SHAPES)] * 3
