"""Are sums of slices, and gathered slices, what sums of whole tensors are? NumPy is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from parity import worlds

import tfdist
from tfdist import testing
from tfdist.communication import slices
from tfdist.communication.compression import Reduction
from tfdist.communication.slices import Slices

# Of awkward sizes, of two types, and one that travels alone.
_SHAPES = [((3,), "float64"), ((5, 2), "float32"), ((1,), "float64"), ((2, 3), "bfloat16"),
           ((1100, 2000), "float32"), ((7,), "float32")]  # fmt: skip


def _values(replica: int) -> list[np.ndarray]:
    rng = np.random.default_rng(replica)
    return [rng.integers(-9, 9, shape).astype("float64") for shape, _ in _SHAPES]


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


def _differences(strategy: Any, reduction: Reduction, *, by_sums: bool = False) -> list[float]:
    """Returns the largest error of each tensor that was summed in slices, and gathered."""
    held = Slices(strategy)
    if by_sums:  # as workers that have GPUs do
        held._exchange.is_direct = False
    assert held.parts == strategy.num_replicas_in_sync > 1

    def on_replica() -> Any:
        context = tf.distribute.get_replica_context()
        drawn = tf.stack([0, 1, 2])[context.replica_id_in_sync_group]
        every = [[tf.constant(v[i], d) for v in map(_values, range(3))]
                 for i, (_, d) in enumerate(_SHAPES)]
        return [tf.stack(of_replicas)[drawn] for of_replicas in every]

    @tf.function(autograph=False)
    def run() -> Any:
        gradients = strategy.run(on_replica)
        sizes = [int(np.prod(shape)) for shape, _ in _SHAPES]
        every = held.gathered(held.summed(gradients, reduction), sizes)
        return [slices.whole(one, shape) for one, (shape, _) in zip(every, _SHAPES, strict=True)]

    sums = [sum(of_all) for of_all in zip(*map(_values, range(held.parts)), strict=True)]
    return [
        float(np.max(np.abs(np.asarray(mine, "float64") - theirs)))
        for mine, theirs in zip(run(), sums, strict=True)
    ]


@pytest.mark.slow
def test_replicas_of_one_process(logical_cpus):
    assert max(_differences(worlds.local_strategy(3), Reduction())) == 0


def _on_a_worker() -> list[list[float]]:
    strategy = tfdist.get_strategy("cpu")
    return [
        _differences(strategy, Reduction()),
        _differences(strategy, Reduction(), by_sums=True),
        _differences(strategy, Reduction("bfloat16")),
    ]


@pytest.mark.slow
def test_workers():
    for found in testing.run_workers(_on_a_worker, workers=2, threads=1):
        assert found == [[0.0] * len(_SHAPES)] * 3  # small whole numbers are exact in bfloat16
