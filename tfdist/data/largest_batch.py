"""How many rows has the largest batch of some data, asked before any of it is used?

Static shapes need it. What was batched says so itself; else the first batch is looked at, where
that changes nothing of what comes afterwards.
"""

from __future__ import annotations

from typing import Any

import keras
import tensorflow as tf

from tfdist.compat import keras_internals, tf_internals
from tfdist.data import rows, same_data
from tfdist.data.py_batches import OrderedBatches


def largest_batch(dataset: tf.data.Dataset) -> int | None:
    """Returns the rows of the largest batch of a dataset; None where that cannot be found out.

    Args:
        dataset: Batched. Where its spec has no fixed rows and no `.batch(n)` shows, its first batch
            is read once more, unless it draws random numbers, whose order that would change.
    """
    known = rows.fixed(dataset.element_spec) or tf_internals.batch_size_of(dataset)
    if known is not None or any(True for _ in same_data.random_parts(dataset)):
        return known
    for batch in dataset.take(1):
        return int(rows.count(rows.without_optionals(batch)))
    return None


def first_batch(x: Any, adapter: Any) -> int | None:
    """Returns the rows of the first batch of a generator or a `PyDataset`; None of anything else.

    Args:
        x: What `fit` was given.
        adapter: What Keras made of it.
    """
    batch = keras_internals.first_of_generator(adapter)
    if batch is None and isinstance(x, (OrderedBatches, keras.utils.PyDataset)):
        batch = x[0]
    if batch is None:
        return None
    first = next(leaf for leaf in keras.tree.flatten(batch) if leaf is not None)
    return int(first.shape[0])
