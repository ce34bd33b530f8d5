"""Does a loop that gathers rows itself see the batches that the pipeline gives?"""

from __future__ import annotations

import gc
import itertools
import weakref

import numpy as np
import pytest
import scipy.sparse
import tensorflow as tf

from tfdist.communication.share import Share
from tfdist.data import arrays as arrays_lib
from tfdist.data.adapters import make_source
from tfdist.loop import while_loop

ROWS = 23
SHARES = [Share(0, 1, 1), Share(0, 2, 2), Share(1, 1, 2), Share(2, 2, 4), Share(0, 8, 8)]


def source_of(share=SHARES[0], *, shuffle=True, batch_size=5, **more):
    x = {"a": np.arange(ROWS, dtype="float32"), "b": np.arange(2 * ROWS).reshape(ROWS, 2)}
    return make_source(x, np.arange(ROWS), share=share, batch_size=batch_size, shuffle=shuffle,
                       seed=3, **more)  # fmt: skip


def batches_of(cursor, number):
    """So many batches of a cursor, each as (global size, parts)."""
    for _ in range(number):
        arrays = cursor.arrays
        batch = tf.constant(cursor.batch, tf.int64)
        yield arrays.gathering.batch(arrays.tensors, cursor.order, batch)
        cursor.advance(1)


def plain(element):
    return tf.nest.map_structure(lambda value: value.numpy().tolist(), element)


@pytest.mark.parametrize("shuffle", [True, False, "batch"])
@pytest.mark.parametrize("share", SHARES, ids=str)
def test_batches_are_those_of_the_stream(share, shuffle):
    source = source_of(share, shuffle=shuffle, sample_weight=np.linspace(0, 1, ROWS))
    whole = list(itertools.islice(source.stream(1, 0), 20))
    for start in (0, 2, 5, 11):
        cursor = arrays_lib.Cursor(source.arrays, 1, start)
        streamed = itertools.islice(source.stream(1, start), 9)
        for number, (own, other) in enumerate(zip(batches_of(cursor, 9), streamed, strict=True)):
            assert plain(own) == plain(other) == plain(whole[start + number])
            assert own[0].dtype == tf.int32


def test_a_pass_is_followed_by_the_next_one():
    source = source_of()
    assert source.num_batches == source.arrays.num_batches == 5
    cursor = arrays_lib.Cursor(source.arrays, 0, 0)
    ends = []
    for _ in range(11):
        ends.append(cursor.left)
        cursor.advance(1)
    assert ends == [5, 4, 3, 2, 1, 5, 4, 3, 2, 1, 5]
    cursor.advance(4)
    assert cursor.left == 5


def test_large_batches_are_left_to_the_pipeline():
    wide = np.zeros([8, arrays_lib.MOST_BYTES // 16], "float32")
    assert make_source(wide, share=SHARES[0], batch_size=4).arrays is not None
    assert make_source(wide, share=SHARES[0], batch_size=5).arrays is None


def test_sparse_rows_are_left_to_the_pipeline():
    rows = scipy.sparse.random(8, 4, density=0.5, format="csr")
    assert make_source(rows, share=SHARES[0], batch_size=4).arrays is None


class Seen:
    """A step that writes down the labels that it was given."""

    def __init__(self):
        self.traces = 0
        self.labels = tf.Variable(tf.zeros([0], tf.int64), shape=[None])

    def __call__(self, batch):
        self.traces += 1
        self.labels.assign(tf.concat([self.labels, batch.parts[0][1]], 0))


@pytest.mark.parametrize("eager", [False, True])
def test_a_loop_goes_over_the_end_of_a_pass(eager):
    source, seen = source_of(), Seen()
    loop = while_loop.make_loop(seen, eager=eager)
    cursor = arrays_lib.Cursor(source.arrays, 0, 0)
    assert [loop(cursor, steps) for steps in (3, 4, 3)] == [3, 4, 3]
    streamed = itertools.islice(source.stream(0, 0), 10)
    assert seen.labels.numpy().tolist() == [i for e in streamed for i in plain(e)[1][0][1]]
    assert eager or seen.traces == 1


@pytest.mark.parametrize("eager", [False, True])
def test_a_loop_that_stops_leaves_the_other_batches(eager):
    source, seen = source_of(shuffle=False), Seen()
    loop = while_loop.make_loop(seen, eager=eager, goes_on=lambda: tf.size(seen.labels) < 10)
    cursor = arrays_lib.Cursor(source.arrays, 0, 0)
    assert loop(cursor, 5) == 2
    assert cursor.batch == 2
    assert loop(cursor, 5) == 1
    assert seen.labels.numpy().tolist() == list(range(15))


def test_other_arrays_of_the_same_kind_are_not_traced_anew():
    seen = Seen()
    loop = while_loop.make_loop(seen)
    for rows in (8, 11):
        source = make_source(np.zeros([rows, 3]), np.arange(rows), share=SHARES[0], batch_size=4)
        loop(arrays_lib.Cursor(source.arrays, 0, 0), source.num_batches)
    assert seen.traces == 1
    source = make_source((np.zeros([8, 3]),), np.arange(8), share=SHARES[0], batch_size=3)
    loop(arrays_lib.Cursor(source.arrays, 0, 0), 1)
    assert seen.traces == 2


def test_a_trace_does_not_keep_the_arrays():
    loop, source = while_loop.make_loop(Seen()), source_of()
    loop(arrays_lib.Cursor(source.arrays, 0, 0), 2)
    kept = weakref.ref(source.arrays.tensors[0])
    del source
    gc.collect()
    assert kept() is None
    assert loop is not None
