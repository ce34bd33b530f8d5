"""Do owners get the sums of their variables, and all workers their values? NumPy is the oracle."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parity import worlds
from support.sums_in_parts import SHAPES, differences, differences_of_workers

from tfdist.communication import owners as owners_lib
from tfdist.communication.compression import Reduction
from tfdist.communication.owners import Owners


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


def _summing(strategy: Any) -> Any:
    """Sums each tensor at its owner, and spreads the sums."""
    held, shapes = Owners(strategy), [shape for shape, _ in SHAPES]
    sizes = [int(np.prod(shape)) for shape in shapes]
    owner_of = owners_lib.deal(sizes, strategy.num_replicas_in_sync)

    def summed(tensors: Any, reduction: Reduction) -> Any:
        sums = held.summed(tensors, owner_of, reduction)
        for one, shape, owner in zip(sums, shapes, owner_of, strict=True):
            is_own = owner in held.replicas
            assert one.shape == (shape if is_own else (0,) * len(shape))
        return held.spread(sums, shapes, owner_of)

    return held, summed


@pytest.mark.slow
def test_replicas_of_one_process(logical_cpus):
    assert max(differences(_summing, worlds.local_strategy(3))) == 0


@pytest.mark.slow
def test_workers():
    """Takes 10 s. The rows of the parity table have no tensor of more than one message."""
    for found in differences_of_workers(_summing):
        assert found == [[0.0] * len(SHAPES)] * 3
