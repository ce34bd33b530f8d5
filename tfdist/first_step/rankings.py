"""By which numbers can the rows of a batch be ranked, so that its parts differ?

Labels, masks and weights have few values, so that two parts of a batch are easily alike. Of four
rows of two classes, both halves hold as many of each class in three cases of eight: there a step
that takes the frequency of a class is one device's, by chance. And means of many rows are nearly
alike. So the rows are ranked by each tensor: the lowest rows go to the first replicas, and the
highest to the last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.workers import Workers

MOST = 4  # rankings of a batch, each of which runs its step twice more
_ENTRIES = 4096  # of a row, which are looked at
_TEXTS = 2**20


def rankings(parts: Sequence[Any], sizes: Sequence[int], workers: Workers) -> list[np.ndarray]:
    """Returns the numbers by which the rows of a batch can be ranked, a float64 each row.

    Args:
        parts: The rows of each replica of this worker, in the same structure.
        sizes: How many rows each replica has, of all workers; what a part holds beyond is padding.
        workers: All workers; each has to call it.

    Returns:
        Numbers of all rows of the global batch, in its order: one array for a tensor, none where
        they are not finite, or all the same. Tensors that have whole numbers, truth values or texts
        alone come first, and of these the last ones (targets, weights). A number is the sum of a
        row's values, with weights from 1 to 2: it tells classes apart, and rises with the length of
        a mask.
    """
    own = sizes[workers.share.first_replica :]
    leaves = [[leaf for leaf in keras.tree.flatten(part) if leaf is not None] for part in parts]
    found = [
        [_numbers(leaf, n) for leaf, n in zip(of_one, own, strict=False)]
        for of_one in zip(*leaves, strict=True)
    ]
    held = np.stack([np.concatenate([numbers for numbers, _ in of_one]) for of_one in found])
    whole = np.array([all(is_whole for _, is_whole in of_one) for of_one in found])
    of_all = np.concatenate(
        [np.frombuffer(text).reshape(len(found), -1) for text in workers.payloads(held.tobytes())],
        axis=1,
    )
    are_whole = np.all([np.frombuffer(t, bool) for t in workers.payloads(whole.tobytes())], axis=0)
    order = sorted(range(len(found)), key=lambda index: (not are_whole[index], -index))
    ranked = (of_all[index] for index in order)
    return [one for one in ranked if np.isfinite(one).all() and len(set(one)) > 1][:MOST]


def extremes(numbers: np.ndarray, count: int) -> np.ndarray:
    """Returns the places of the `count // 2` highest rows, after as many lowest, in order.

    Synopsis:

        >>> extremes(np.array([1.0, 9.0, 2.0, 8.0, 3.0]), 4).tolist()
        [0, 2, 3, 1]
    """
    order = np.argsort(numbers, kind="stable")
    return np.concatenate([order[: count - count // 2], order[len(order) - count // 2 :]])


def _numbers(leaf: Any, count: int) -> tuple[np.ndarray, bool]:
    """Returns a number for each of the first rows, and whether its values are whole numbers."""
    if isinstance(leaf, tf.SparseTensor):
        rows, columns, values = leaf.indices[:, 0], leaf.indices[:, -1] % _ENTRIES, leaf.values
        size = int(leaf.dense_shape[0])
    else:
        dense = leaf.to_tensor() if isinstance(leaf, tf.RaggedTensor) else leaf
        dense = tf.reshape(dense, [tf.shape(dense)[0], -1])[:, :_ENTRIES]
        rows, columns = np.indices(dense.shape).reshape(2, -1)
        values, size = tf.reshape(dense, [-1]), len(dense)
    if values.dtype == tf.string:
        values = tf.strings.to_hash_bucket_fast(values, _TEXTS)
    if not (values.dtype.is_integer or values.dtype.is_floating or values.dtype.is_bool):
        return np.full(count, np.nan), False
    exact = np.asarray(tf.cast(values, tf.float64))
    weights = np.random.default_rng(0).uniform(1, 2, _ENTRIES)
    numbers = np.bincount(rows, exact * weights[columns], minlength=size)[:count]
    return numbers, bool((exact == np.round(exact)).all())
