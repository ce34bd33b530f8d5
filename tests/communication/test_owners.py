"""Do owners get the sums of their variables, and all workers their values? NumPy is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st
from parity import worlds

import tfdist
from tfdist import testing
from tfdist.communication import owners as owners_lib
from tfdist.communication.compression import Reduction
from tfdist.communication.owners import Owners

# Of awkward sizes, of three types, and one that takes more than a message.
_SHAPES = [((3,), "float64"), ((5, 2), "float32"), ((1,), "float64"), ((2, 3), "bfloat16"),
           ((1100, 2000), "float32"), ((7,), "float32")]  # fmt: skip


@given(st.lists(st.integers(1, 99), max_size=20), st.integers(1, 6))
def test_nobody_owns_much_more_than_others(sizes, owners):
    found = owners_lib.deal(sizes, owners)
    held = [sum(s for s, who in zip(sizes, found, strict=True) if who == o) for o in range(owners)]
    assert sum(held) == sum(sizes)
    # The last one that was dealt to the fullest went to who had least, and is no larger than any.
    assert max(held) - min(held) <= max(sizes, default=0)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(0, 2)), max_size=9), st.integers(1, 7)
)
def test_each_number_is_in_one_message(of_tensors, block):
    sizes, owner_of = [size for size, _ in of_tensors], [owner for _, owner in of_tensors]
    found: list[list[int]] = [[] for _ in sizes]
    for message in owners_lib.messages(sizes, owner_of, 3, block=block):
        assert len(message) == 3
        for owner, chunks in enumerate(message):
            assert sum(stop - start for _, start, stop in chunks) <= block
            for index, start, stop in chunks:
                assert owner_of[index] == owner
                found[index] += range(start, stop)
    assert found == [list(range(size)) for size in sizes]


def _values(replica: int) -> list[np.ndarray]:
    rng = np.random.default_rng(replica)
    return [rng.integers(-9, 9, shape).astype("float64") for shape, _ in _SHAPES]


def _differences(strategy: Any, reduction: Reduction, *, by_sums: bool = False) -> list[float]:
    """Returns the largest error of each tensor that was summed at its owner, and spread."""
    held = Owners(strategy)
    if by_sums:  # as workers that have GPUs do
        held._exchange.is_direct = False
    replicas = strategy.num_replicas_in_sync
    assert replicas > 1
    shapes = [shape for shape, _ in _SHAPES]
    owner_of = owners_lib.deal([int(np.prod(shape)) for shape in shapes], replicas)

    def on_replica() -> Any:
        context = tf.distribute.get_replica_context()
        drawn = tf.stack([0, 1, 2])[context.replica_id_in_sync_group]
        every = [[tf.constant(v[i], d) for v in map(_values, range(3))]
                 for i, (_, d) in enumerate(_SHAPES)]
        return [tf.stack(of_replicas)[drawn] for of_replicas in every]

    @tf.function(autograph=False)
    def run() -> Any:
        sums = held.summed(strategy.run(on_replica), owner_of, reduction)
        for one, shape, owner in zip(sums, shapes, owner_of, strict=True):
            is_own = owner in held.replicas
            assert one.shape == (shape if is_own else (0,) * len(shape))
        return held.spread(sums, shapes, owner_of)

    sums = [sum(of_all) for of_all in zip(*map(_values, range(replicas)), strict=True)]
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
    """Takes 10 s. The rows of the parity table have no tensor of more than one message."""
    for found in testing.run_workers(_on_a_worker, workers=2, threads=1):
        assert found == [[0.0] * len(_SHAPES)] * 3  # small whole numbers are exact in bfloat16
