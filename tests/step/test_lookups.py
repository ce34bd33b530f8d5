"""Is it seen which rows of a gradient come of the batch? What an update makes of it: the table."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from tfdist.communication import collectives
from tfdist.communication.reduction import Lookups, joined
from tfdist.global_batch import position as position_lib
from tfdist.step import lookups

_TABLE = np.arange(16.0).reshape(8, 2)
_OF_BATCH, _SHARED, _BOTH = "of the batch", "shared", "both"


def _range(size: Any) -> Any:
    return tf.range(size)


# What is looked up, given words of shape (rows, 4); and what that is of batches of open and of
# fixed size.
_INDICES: dict[str, tuple[Callable[[Any], list[Any]], str, str]] = {
    "words": (lambda x: [x], _OF_BATCH, _OF_BATCH),
    "positions": (lambda x: [_range(4)], _SHARED, _SHARED),
    "positions of all steps": (lambda x: [_range(tf.shape(x)[1])], _SHARED, _SHARED),
    "the last dimension": (lambda x: [_range(tf.shape(x)[-1])], _SHARED, _SHARED),
    "a number a row": (lambda x: [_range(tf.shape(x)[0])], _OF_BATCH, _SHARED),
    "a constant a row": (lambda x: [tf.zeros_like(x[:, 0])], _OF_BATCH, _OF_BATCH),
    "positions a row": (lambda x: [tf.tile(_range(4), tf.shape(x)[:1])], _OF_BATCH, _OF_BATCH),
    "one row": (lambda x: [tf.constant([3])], _SHARED, _SHARED),
    "what a replica draws": (
        lambda x: [tf.random.uniform([5], maxval=8, dtype=tf.int32)], _OF_BATCH, _OF_BATCH,
    ),
    "what all draw alike": (
        lambda x: [tf.random.stateless_uniform([5], [1, 2], maxval=8, dtype=tf.int32)],
        _SHARED, _SHARED,
    ),
    "words and positions": (lambda x: [x, _range(4)], _BOTH, _BOTH),
}


def _kind(gradient: Any) -> str:
    if not isinstance(gradient, Lookups):
        return _OF_BATCH
    return _SHARED if gradient.of_batch is None else _BOTH


def _seen(
    look_up: Callable[[Any], list[Any]], rows: int | None, table: Any
) -> tuple[list[str], Any]:
    found: list[Any] = []
    replica = collectives.Collectives(2, 0, None, None, None)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([rows, 4], tf.int32)])
    def run(x: Any) -> Any:
        position = position_lib.Position(8, 4, 0, replica, fixed_rows=rows, inputs=(x,))
        with tf.GradientTape() as tape, position_lib.at(position):
            values = [tf.gather(table, indices) for indices in look_up(x)]
            loss = tf.add_n([tf.reduce_sum(value) for value in values])
        gradient = tape.gradient(loss, table)
        with position_lib.at(position):
            [apart] = lookups.separated([gradient])
        found.append(_kind(apart))
        return tf.convert_to_tensor(gradient), tf.convert_to_tensor(joined(apart))

    return found, run(tf.constant(np.arange(16).reshape(4, 4) % 8, tf.int32))


@pytest.mark.parametrize("name", _INDICES)
@pytest.mark.parametrize("rows", [None, 4])
def test_kinds(name: str, rows: int | None) -> None:
    look_up, of_open, of_fixed = _INDICES[name]
    [kind], (whole, again) = _seen(look_up, rows, tf.Variable(_TABLE))
    assert kind == (of_open if rows is None else of_fixed)
    np.testing.assert_allclose(again, whole)  # nothing is lost, whatever stands where


def test_what_is_done_to_the_values_changes_nothing() -> None:
    """A gradient that was weighed or clipped is no longer what the tape has put side by side."""
    table, found = tf.Variable(_TABLE), []
    replica = collectives.Collectives(2, 0, None, None, None)

    @tf.function(autograph=False, input_signature=[tf.TensorSpec([None, 4], tf.int32)])
    def run(x: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(tf.gather(table, x)) + tf.reduce_sum(tf.gather(table, [1, 2]))
        gradient = tape.gradient(loss, table)
        gradient = tf.IndexedSlices(gradient.values * 3, gradient.indices, gradient.dense_shape)
        with position_lib.at(position_lib.Position(8, 4, 0, replica, inputs=(x,))):
            [apart] = lookups.separated([gradient])
        found.append(_kind(apart))
        return apart.shared.indices, apart.shared.values

    indices, values = run(tf.zeros([4, 4], tf.int32))
    assert (found, indices.numpy().tolist()) == ([_BOTH], [1, 2])
    np.testing.assert_array_equal(values, [[3.0, 3.0]] * 2)


def test_one_replica_is_left_alone() -> None:
    position = position_lib.Position(4, 4, 0, collectives.alone())
    gradient = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([0]), tf.constant([8, 2]))
    with position_lib.at(position):
        assert lookups.separated([gradient, None])[0] is gradient
    assert lookups.separated([gradient])[0] is gradient


@pytest.mark.parametrize(("own", "kept"), [(0, 0), (1, 3)])
def test_what_an_empty_replica_looks_up_is_cut(own: int, kept: int) -> None:
    rows = tf.IndexedSlices(tf.fill([3, 2], np.nan), tf.constant([1, 1, 2]), tf.constant([8, 2]))
    shared = tf.IndexedSlices(tf.zeros([5, 2]), tf.range(5), tf.constant([8, 2]))
    replica = collectives.Collectives(2, 1, None, None, None)

    def counts(position: position_lib.Position) -> list[int]:
        with position_lib.at(position):
            first, second, dense = lookups.without_filler(
                [rows, Lookups(rows, shared), tf.zeros([2])]
            )
        assert dense.shape == [2]
        parts = (first, second.of_batch, second.shared)
        assert all(len(part.values) == len(part.indices) for part in parts)
        return [len(part.indices) for part in parts]

    position = position_lib.Position(1, own, 1 - own, replica)
    assert counts(position) == [kept, kept, 5]
    # XLA cannot cut inside of what it compiles, and padded batches have no such row.
    for fixed in ({"is_compiled": True}, {"padded_rows": 4}):
        assert counts(dataclasses.replace(position, **fixed)) == [3, 3, 5]
