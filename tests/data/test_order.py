"""Do a PyDataset's batches come in their order, also from the middle of an epoch on?"""

from __future__ import annotations

import functools
import pickle

import numpy as np
import pytest

from tfdist.data.order import OrderedBatches, epoch_order


class _Dataset:
    num_batches = 5
    workers = 3

    def __init__(self) -> None:
        self.ends = 0

    def __getitem__(self, index: int) -> int:
        return index * 10

    def on_epoch_end(self) -> None:
        self.ends += 1


_ORDER = functools.partial(epoch_order, seed=1)


def _epoch(batches: OrderedBatches) -> list[int]:
    return [batches[index] for index in range(batches.num_batches)]


@pytest.mark.parametrize("order", [None, _ORDER])
def test_orders(order):
    dataset = _Dataset()
    batches = OrderedBatches(dataset, order)
    assert batches.workers == 3
    for epoch in range(3):
        batches.on_epoch_end()
        expected = np.arange(5) if order is None else epoch_order(5, seed=1, epoch=epoch)
        assert _epoch(batches) == (expected * 10).tolist()
    assert dataset.ends == 3


@pytest.mark.parametrize("order", [None, _ORDER])
def test_beginning_in_the_middle_holds_for_one_epoch(order):
    batches = OrderedBatches(_Dataset(), order)
    batches.on_epoch_end()
    whole = _epoch(batches)
    batches.begin_with(3)
    assert _epoch(batches) == whole[3:]
    batches.on_epoch_end()
    assert batches.num_batches == 5


def test_travels_to_loading_processes():
    batches = OrderedBatches(_Dataset(), _ORDER)
    batches.on_epoch_end()
    batches.begin_with(2)
    assert _epoch(pickle.loads(pickle.dumps(batches))) == _epoch(batches)
