"""What if a `keras.utils.PyDataset` can make any rows, instead of whole batches only?

Synopsis:

    >>> class Squares(RowsDataset):
    ...     def get_rows(self, indices):
    ...         return indices[:, None].astype("float32"), (indices**2).astype("float32")
    >>> dataset = Squares(num_rows=5, batch_size=2)
    >>> len(dataset), dataset[2][1].tolist()
    (3, [16.0])

A batch of a `PyDataset` is made as a whole, by each worker. Of a `RowsDataset` a worker asks for
its own rows only. To stock Keras it is a `PyDataset` like any other, with the same batches.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.data.numbered_rows import NumberedRows


class RowsDataset(keras.utils.PyDataset):  # type: ignore[misc]  # which Keras does not type
    """A data set whose rows can be made in any choice; subclasses define `get_rows`.

    Args:
        num_rows: Examples of the data set.
        batch_size: Rows of a *global* batch; the last one may be smaller.
        **kwargs: As in `keras.utils.PyDataset`: `workers` threads call `get_rows`.

    Raises:
        ValueError: There are no rows, or none in a batch.
    """

    def __init__(self, *, num_rows: int, batch_size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if num_rows < 1 or batch_size < 1:
            raise ValueError(
                f"num_rows={num_rows!r} and batch_size={batch_size!r} must be 1 or more. Give the "
                "number of examples, and of those in a batch of all workers together."
            )
        self.num_rows, self.batch_size = num_rows, batch_size

    def get_rows(self, indices: np.ndarray) -> Any:
        """Returns rows of the data set as arrays: `x`, `(x, y)` or `(x, y, sample_weight)`.

        Args:
            indices: Numbers of rows, from 0: int64, at least one, in any order. The same number
                gives the same row on each worker, whatever else is asked for.
        """
        raise NotImplementedError(f"{type(self).__name__} defines no get_rows(indices).")

    def __len__(self) -> int:
        """Returns the number of batches."""
        return -(-self.num_rows // self.batch_size)

    def __getitem__(self, index: int) -> Any:
        """Returns a whole batch."""
        begin = index * self.batch_size
        return self.get_rows(np.arange(begin, min(begin + self.batch_size, self.num_rows)))


def gives_rows(x: Any) -> bool:
    """Tells whether rows of a data set may be asked for in the place of its batches.

    A subclass that makes batches in its own way, or changes from epoch to epoch, is asked for
    batches, in the order in which they come.
    """
    own = type(x)
    kept = ("__getitem__", "__len__", "on_epoch_begin", "on_epoch_end")
    return isinstance(x, RowsDataset) and all(
        getattr(own, name, None) is getattr(RowsDataset, name, None) for name in kept
    )


def numbered_rows(dataset: RowsDataset) -> NumberedRows:
    """Returns the rows of a data set that `gives_rows`."""
    size, rows = dataset.batch_size, dataset.num_rows
    return NumberedRows(
        dataset.get_rows, size, len(dataset), rows,
        bounds=lambda batch: (batch * size, tf.minimum((batch + 1) * size, rows)),
        is_even=rows % size == 0, samples=np.unique([0, rows - 1]), calls=dataset.workers,
    )
