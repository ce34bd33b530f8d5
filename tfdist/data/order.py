"""In which order do examples and batches come?

For arrays the order of the examples is a function of the seed and the epoch only, `epoch_order`: it
does not depend on the number of workers or replicas, and any position in it can be reached at once.
`OrderedBatches` puts the batches of a `PyDataset` into such an order, and can begin in the middle.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfdist.communication.share import Share, bounds


def epoch_order(num_examples: int, *, seed: int, epoch: int) -> np.ndarray:
    """Returns the order in which an epoch visits the examples of arrays when it shuffles.

    Args:
        num_examples: Examples in the data set.
        seed: Seed of the run; any non-negative int.
        epoch: Number of the epoch, from 0.

    Returns:
        A permutation of `range(num_examples)`, int64, the same on every worker of every cluster:
        NumPy's PCG64 seeded with the sequence `(seed, epoch)`.

    >>> epoch_order(5, seed=1, epoch=0).tolist()
    [4, 0, 1, 2, 3]
    """
    return np.random.default_rng([seed, epoch]).permutation(num_examples)


def block_order(
    num_examples: int, *, block: int, seed: int, epoch: int, together: int = 16
) -> np.ndarray:
    """Returns an order in which neighbours stay near each other, for data larger than memory.

    Blocks of neighbouring examples come in an order of their own, and the examples of a few blocks
    that follow each other are shuffled together: who reads on needs only so many in memory.

    Args:
        num_examples: Examples in the data set.
        block: Examples of a block; the last one may be smaller.
        seed: Seed of the run; any non-negative int.
        epoch: Number of the epoch, from 0.
        together: Blocks whose examples are shuffled together.

    Returns:
        A permutation of `range(num_examples)`, int64, the same on every worker of every cluster.

    >>> block_order(6, block=2, seed=1, epoch=0, together=1).tolist()
    [0, 1, 3, 2, 5, 4]
    """
    generator = np.random.default_rng([seed, epoch])
    starts = generator.permutation(-(-num_examples // block)) * block
    order = (starts[:, np.newaxis] + np.arange(block)).reshape(-1)
    order = order[order < num_examples]
    for begin in range(0, num_examples, block * together):
        generator.shuffle(order[begin : begin + block * together])
    return order


def group_order(
    sizes: Sequence[int], *, batch_size: int, seed: int, epoch: int, lanes: int = 8
) -> np.ndarray:
    """Returns an order for examples that are read in whole groups, such as those of Parquet files.

    The groups come in an order of their own, and the examples of each are shuffled. The sequence of
    all of them is cut into lanes, and every batch has as many rows of each lane as it has of the
    next: so a part of a batch is always of the same lanes, and who makes the first half of each
    batch needs about half of the groups, a few at a time.

    Args:
        sizes: Examples of each group, in the order in which they are numbered.
        batch_size: Rows of a global batch.
        seed: Seed of the run; any non-negative int.
        epoch: Number of the epoch, from 0.
        lanes: Into how many parts a batch is divided, if it has as many rows.

    Returns:
        A permutation of `range(sum(sizes))`, int64, the same on every worker of every cluster.

    >>> group_order([2, 2, 2, 2], batch_size=4, seed=0, epoch=0, lanes=2).tolist()
    [5, 4, 2, 3, 0, 1, 7, 6]
    """
    generator = np.random.default_rng([seed, epoch])
    begins = np.cumsum([0, *sizes[:-1]])
    sequence = np.concatenate([
        begins[group] + generator.permutation(sizes[group])
        for group in generator.permutation(len(sizes))
    ])
    batches = len(sequence) // batch_size
    rows = np.diff(np.arange(min(lanes, batch_size) + 1) * batch_size // min(lanes, batch_size))
    stops = np.cumsum(rows * batches)
    pieces = [
        sequence[stop - of_lane * batches : stop].reshape(batches, of_lane)
        for stop, of_lane in zip(stops, rows, strict=True)
    ]
    # What is no whole batch comes last.
    return np.concatenate([*np.concatenate(pieces, axis=1), sequence[batches * batch_size :]])


def worker_examples(order: np.ndarray, *, batch_size: int, share: Share) -> np.ndarray:
    """Returns the examples that a worker trains on in one epoch over arrays.

    Args:
        order: The epoch's order: `epoch_order`, or `range(n)` where nothing is shuffled.
        batch_size: Examples per step, over all replicas of all workers.
        share: Which replicas the worker feeds.

    Returns:
        Numbers of examples, int64, in the order in which they are seen. Those of all workers are
        disjoint, and together they are `order`.

    >>> worker_examples(np.arange(10), batch_size=4, share=Share(1, 1, 2)).tolist()
    [2, 3, 6, 7, 9]
    """
    seen = []
    for begin in range(0, len(order), batch_size):
        batch = order[begin : begin + batch_size]
        for replica in share.replicas:
            start, stop = bounds(len(batch), replica, share.num_replicas)
            seen.append(batch[start:stop])
    return np.concatenate(seen)


class OrderedBatches:
    """A `keras.utils.PyDataset` of known length, in an order that is the same on every worker.

    Args:
        dataset: The PyDataset.
        order: `order(num_batches, epoch=...)` returns the order of an epoch; None keeps the order.
            It is sent to loading processes, so it must be picklable.
    """

    def __init__(self, dataset: Any, order: Callable[..., np.ndarray] | None) -> None:
        self._dataset, self._order_of, self._epoch = dataset, order, -1
        self._order = np.arange(dataset.num_batches)  # until the end before the first pass

    def __getattr__(self, name: str) -> Any:
        if name == "_dataset":  # not there yet while a copy is unpickled by a loading process
            raise AttributeError(name)
        return getattr(self._dataset, name)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[int(self._order[index])]

    @property
    def num_batches(self) -> int:
        """Batches that are left in the current epoch."""
        return len(self._order)

    def begin_with(self, batch: int) -> None:
        """Makes the current epoch begin with batch number `batch`."""
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
