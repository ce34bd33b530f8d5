"""In which order do a PyDataset's batches come, and how does it begin with one in the middle?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np


class OrderedBatches:
    """A `keras.utils.PyDataset` of known length, in an order that is the same on every worker.

    Args:
        dataset: The PyDataset.
        order: `order(num_batches, epoch=...)` gives the order of an epoch; None for as they come.
            It travels to loading processes, so it can be pickled.
    """

    def __init__(self, dataset: Any, order: Callable[..., np.ndarray] | None) -> None:
        self._dataset, self._order_of, self._epoch = dataset, order, -1
        self._order = np.arange(dataset.num_batches)  # until `fit` ends the pass before the first

    def __getattr__(self, name: str) -> Any:
        if name == "_dataset":  # not there yet while a copy is unpickled by a loading process
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self._order[index])]

    @property
    def num_batches(self) -> int:
        """Batches that are left in the present epoch."""
        return len(self._order)

    def begin_with(self, batch: int) -> None:
        """Makes the present epoch begin with another batch than its first one."""
        self._order = self._order[batch:]

    def on_epoch_end(self) -> None:
        """Ends an epoch, and puts the batches in the order of the next one."""
        self._dataset.on_epoch_end()
        self._epoch += 1
        num_batches = self._dataset.num_batches
        if self._order_of is None:
            self._order = np.arange(num_batches)
        else:
            self._order = self._order_of(num_batches, epoch=self._epoch)
