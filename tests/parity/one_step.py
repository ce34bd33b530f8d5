"""How does a test look into one step? It runs a function on every replica's rows of a batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from parity import worlds
from tfdist.communication import share
from tfdist.step import replicas


def parts_of(rows: Any, num_replicas: int, *, fill_empty: bool = False) -> tuple[Any, ...]:
    """Splits a structure of arrays as a global batch is split.

    Args:
        rows: Arrays of one global batch.
        num_replicas: How many parts.
        fill_empty: Whether an empty replica gets a row that does not count, as in `fit`.
    """
    size = len(keras.tree.flatten(rows)[0])
    parts = []
    for replica in range(num_replicas):
        start, stop = share.bounds(size, replica, num_replicas)
        if fill_empty and start == stop:
            start, stop = size - 1, size
        parts.append(keras.tree.map_structure(lambda a, s=slice(start, stop): a[s], rows))
    return tuple(parts)


def on_replicas(
    fn: Callable[[Any], Any], rows: Any, num_replicas: int, *, fill_empty: bool = False
) -> list[Any]:
    """Returns what `fn` gives for each replica's rows, in the order of the replicas."""
    return traced(fn, rows, num_replicas, fill_empty=fill_empty)(rows)


def traced(
    fn: Callable[[Any], Any], like: Any, num_replicas: int, *, fill_empty: bool = False
) -> Callable[[Any], list[Any]]:
    """Traces `fn` on all replicas for batches of any size; see `on_replicas`.

    Args:
        fn: Takes a replica's rows.
        like: A batch, of any size.
        num_replicas: Logical CPUs of this process.
        fill_empty: As in `parts_of`.
    """
    strategy = worlds.local_strategy(num_replicas)

    @tf.function(autograph=False)
    def step(size: Any, parts: Any) -> Any:
        batch = replicas.Batch(global_size=size, parts=parts)
        results = replicas.run(strategy, fn, batch)
        leaves = [strategy.experimental_local_results(r) for r in keras.tree.flatten(results)]
        return [
            keras.tree.pack_sequence_as(results, [leaf[i] for leaf in leaves])
            for i in range(num_replicas)
        ]

    spec = keras.tree.map_structure(lambda a: tf.TensorSpec([None, *a.shape[1:]], a.dtype), like)
    concrete = step.get_concrete_function(tf.TensorSpec([], tf.int32), (spec,) * num_replicas)

    def run(rows: Any) -> list[Any]:
        size = len(keras.tree.flatten(rows)[0])
        parts = parts_of(rows, num_replicas, fill_empty=fill_empty)
        results = concrete(tf.constant(size), keras.tree.map_structure(tf.constant, parts))
        return keras.tree.map_structure(np.asarray, results)

    return run


def total(fn: Callable[[Any], Any], rows: Any, num_replicas: int, **options: Any) -> Any:
    """Returns the sum over the replicas of what `fn` gives for each one's rows."""
    return added(on_replicas(fn, rows, num_replicas, **options))


def added(results: list[Any]) -> Any:
    """Returns the sum of what the replicas gave."""
    return keras.tree.map_structure(lambda *values: sum(values), *results)


def joined(fn: Callable[[Any], Any], rows: Any, num_replicas: int) -> np.ndarray:
    """Returns the rows that `fn` gives on each replica, one below the other."""
    return np.concatenate(on_replicas(fn, rows, num_replicas))
