"""Do rankings of a batch's rows make parts that differ, where the rows as they come do not?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.communication.workers import Workers
from tfdist.first_step.rankings import MOST, extremes, rankings


def _ranked(*leaves: Any, parts: int = 2) -> list[np.ndarray]:
    """Ranks six rows, of which each replica has as many."""
    workers = Workers(tfdist.get_strategy(f"{parts}xcpu"))
    assert workers.share.num_replicas == parts > 1
    each = 6 // parts
    split = [tuple(leaf[i * each : (i + 1) * each] for leaf in leaves) for i in range(parts)]
    return rankings(split, [each] * parts, workers)


def test_ends_are_taken_in_order():
    numbers = np.array([3.0, 1.0, 2.0, 1.0, 9.0])
    assert extremes(numbers, 2).tolist() == [1, 4]
    assert extremes(numbers, 3).tolist() == [1, 3, 4]
    assert extremes(numbers, 5).tolist() == [1, 3, 2, 0, 4]


_LABELS = np.array([1, 0, 1, 0, 1, 0])


_LEAVES = {
    "integers": lambda: tf.constant(_LABELS),
    "truth values": lambda: tf.constant(_LABELS == 1),
    "whole floats": lambda: tf.constant(_LABELS[:, None] * 1.0, tf.bfloat16),
    "one-hot": lambda: tf.constant(np.eye(2)[_LABELS]),
    "texts": lambda: tf.constant(np.array(["cat", "dog"])[_LABELS]),
    "lengths": lambda: tf.ragged.constant([[4] * (1 + n) for n in _LABELS]),
    "ragged texts": lambda: tf.ragged.constant([["a"] * (1 + n) for n in _LABELS]),
}


@pytest.mark.parametrize("leaf", _LEAVES)
@pytest.mark.parametrize("parts", [2, 3])
def test_few_values_rank_rows(leaf, parts):
    (numbers,) = _ranked(_LEAVES[leaf](), parts=parts)
    apart = [set(numbers[label == _LABELS]) for label in (0, 1)]
    assert len(apart[0]) == len(apart[1]) == 1
    assert apart[0] != apart[1]


def test_sparse_rows_are_ranked():
    workers = Workers(tfdist.get_strategy("2xcpu"))
    rows = [np.zeros((3, 4)), np.eye(3, 4)]
    split = [tf.sparse.from_dense(one) for one in rows]
    (numbers,) = rankings(split, [3, 3], workers)
    assert numbers[:3].tolist() == [0, 0, 0]
    assert (numbers[3:] >= 1).all()


def test_a_longer_mask_ranks_higher():
    (numbers,) = _ranked(tf.sequence_mask([5, 1, 3, 2, 4, 0], 5))
    assert np.argsort(numbers).tolist() == [5, 1, 3, 2, 4, 0]


def test_what_cannot_rank_is_left_out():
    assert not _ranked(tf.ones(6), tf.constant(_LABELS * 1j))
    assert not _ranked(tf.constant([0.0, 1.0, np.nan, 1.0, 0.0, 1.0]))


def test_labels_come_before_features_and_there_is_an_end():
    features = np.random.default_rng(0).normal(size=6)
    numbers = _ranked(tf.constant(_LABELS), tf.constant(_LABELS * 2), tf.constant(features))
    assert [len(set(one)) for one in numbers] == [2, 2, 6]
    assert numbers[0].max() == 2 * numbers[1].max()
    assert len(_ranked(*[tf.constant(_LABELS)] * (MOST + 3))) == MOST


def test_padding_is_no_row():
    workers = Workers(tfdist.get_strategy("2xcpu"))
    split = [tf.constant([1, 2, 99]), tf.constant([3, 99, 99])]
    (numbers,) = rankings(split, [2, 1], workers)
    assert len(numbers) == 3
    assert numbers.tolist() == sorted(numbers)


def _fit(loss: keras.losses.Loss, labels: str) -> Any:
    """Trains a step of two replicas on rows of two classes, one batch; returns the history."""
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, "sigmoid")])
        model.compile("sgd", loss)
    x = np.random.default_rng(0).normal(size=(len(labels), 3))
    y = np.array([list(labels)]).T.astype(int)
    return tfdist.fit(model, x, y, batch_size=len(labels), shuffle=False, verbose=0)


class ByFrequency(keras.losses.Loss):
    """Weighs each class by how rare it is in the batch."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        y_true = keras.ops.cast(y_true, y_pred.dtype)
        share = keras.ops.mean(y_true)
        weights = y_true * (1 - share) + (1 - y_true) * share
        return weights[:, 0] * keras.losses.binary_crossentropy(y_true, y_pred)


@pytest.mark.parametrize("labels", ["0101010101", "0000000001"])
def test_frequencies_of_classes_are_found_by_no_chance(labels):
    """The first rows of both replicas have the same classes."""
    with pytest.raises(ValueError, match="ByFrequency.call"):
        _fit(ByFrequency(), labels)


class BothClasses(keras.losses.Loss):
    """Is right for each row, and refuses rows of one class alone."""

    def call(self, y_true: Any, y_pred: Any) -> Any:
        share = keras.ops.mean(keras.ops.cast(y_true, y_pred.dtype))
        with tf.control_dependencies([tf.debugging.assert_less(share, 1.0)]):
            return keras.losses.binary_crossentropy(y_true, y_pred)


def test_a_step_that_fails_for_ranked_rows_alone_is_right(caplog):
    history = _fit(BothClasses(), "01010101")
    assert history.checked == {"train_step": "the first one agrees with one device's"}
    assert not [record for record in caplog.records if record.name == "tfdist"]
