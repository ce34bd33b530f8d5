"""Does each worker make its own rows, all of them, and no more?"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from parity import cut_datasets, pipelines

from tfdist.communication.share import Share, bounds
from tfdist.data import rows
from tfdist.data.pipelines.own_rows import OwnRows, own_rows
from tfdist.data.pipelines.tf_data import dataset_source

_SHARES = [(2, 1), (3, 1), (5, 1), (4, 2)]  # replicas of all workers, and of one


def _shares(total, local):
    return [Share(first, local, total) for first in range(0, total, local)]


def _check(make, total, local, *, start=0, passes=1):
    """Compares what all workers get with the plain stream."""
    plain = make()
    wanted = [list(plain) for _ in range(passes)]
    samples = []
    for share in _shares(total, local):
        dataset = make()
        assert isinstance(own_rows(dataset, share), OwnRows)
        stream = dataset_source(dataset, share=share, is_sampled=True).stream(0, start)
        for batches in wanted:
            found = list(stream)
            assert len(found) == len(batches[start:])
            samples.append([int(element[2]) for element in found])
            for element, batch in zip(found, batches[start:], strict=True):
                _compare(element, batch, share)
    for number in range(passes):
        assert len({tuple(one) for one in samples[number::passes]}) == 1


def _compare(element, batch, share):
    size = int(rows.count(batch))
    assert int(element[0]) == size
    for part, replica in zip(element[1], share.replicas, strict=True):
        start, stop = rows.never_empty(*bounds(size, replica, share.num_replicas), size)
        wanted = tf.nest.flatten(rows.cut(batch, start, stop), expand_composites=True)
        found = tf.nest.flatten(part, expand_composites=True)
        for one, other in zip(wanted, found, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy())


def _sentences(stop=13):
    return tf.data.Dataset.range(stop).map(lambda i: (tf.fill([i % 4], i), i))


@pytest.mark.slow
@pytest.mark.parametrize(
    "make",
    [
        lambda: _sentences().padded_batch(5, padded_shapes=([5], [])),
        lambda: _sentences().ragged_batch(5),
        lambda: tf.data.Dataset.zip(
            (_sentences().map(lambda _, i: {"a": i}), tf.data.Dataset.range(9))
        ).batch(4, num_parallel_calls=2),
        lambda: tf.data.Dataset.from_tensor_slices(
            tf.ragged.constant([[1] * (i % 3) for i in range(9)])
        ).map(tf.reduce_sum).batch(4),
        lambda: tf.data.Dataset.from_tensor_slices({"text": [str(i) for i in range(9)]})
        .map(lambda row: (tf.strings.length(row["text"]), row["text"])).batch(4),
        lambda: tf.data.Dataset.from_tensor_slices(np.eye(7)).map(tf.sparse.from_dense).batch(3),
    ],
    ids=["padded", "ragged", "side by side", "ragged elements", "texts", "sparse"],
)  # fmt: skip
def test_rows_of_every_form(make):
    for total, local in _SHARES[1:]:
        _check(make, total, local)


@pytest.mark.slow
@settings(max_examples=12, phases=(Phase.explicit, Phase.reuse, Phase.generate))
@given(
    stop=st.integers(1, 25),
    size=st.integers(1, 12),
    workers=st.sampled_from(_SHARES),
    shuffles=st.sampled_from([None, True, False]),
    is_filtered=st.booleans(),
    repeats=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    cut=st.sampled_from([None, ("take", 2), ("skip", 1)]),
    drops=st.booleans(),
    calls=st.sampled_from([None, 3]),
    start=st.integers(0, 2),
)
def test_any_pipeline_gives_the_rows_of_the_plain_one(
    stop, size, workers, shuffles, is_filtered, repeats, cut, drops, calls, start
):
    def make():
        dataset = tf.data.Dataset.range(stop)
        if shuffles is not None:
            dataset = dataset.shuffle(7, seed=3, reshuffle_each_iteration=shuffles)
        if is_filtered:
            dataset = dataset.filter(lambda i: i % 3 > 0)
        dataset = dataset.map(lambda i: (tf.cast(i, tf.float32), i), calls).repeat(repeats[0])
        dataset = dataset.batch(size, drop_remainder=drops)
        if cut is not None:
            dataset = getattr(dataset, cut[0])(cut[1])
        return dataset.repeat(repeats[1]).prefetch(1)

    _check(make, *workers, start=start, passes=2)


@pytest.mark.parametrize(("total", "most"), [(2, 0.51), (4, 0.26)])
def test_a_worker_makes_its_part_of_the_examples(total, most):
    for share in _shares(total, 1):
        made = []

        def costly(i, made=made):
            made.append(int(i))
            return i

        dataset = tf.data.Dataset.range(256).map(
            lambda i: tf.numpy_function(costly, [i], tf.int64)  # noqa: B023
        ).batch(32).prefetch(2)
        source = dataset_source(dataset, share=share)
        made.clear()  # what told that it gives the same twice
        list(source.stream(0, 0))
        assert 0 < len(made) <= most * 256


def test_examples_of_batches_that_are_left_out_are_not_made():
    made = []

    def costly(i):
        made.append(int(i))
        return i

    dataset = tf.data.Dataset.range(40).map(lambda i: tf.numpy_function(costly, [i], tf.int64))
    source = dataset_source(dataset.batch(10), share=Share(0, 1, 2))
    made.clear()
    list(source.stream(0, 3))
    assert made == [30, 31, 32, 33, 34]


@pytest.mark.parametrize("kind", ["counts", "draws", "reads what cannot be read again"])
def test_all_examples_are_made_where_a_python_function_has_a_state(kind):
    numbers = iter(range(9))
    functions = {
        "counts": lambda i: np.int64(next(numbers)),
        "draws": lambda i: np.int64(np.random.randint(9) * 0),
        "reads what cannot be read again": lambda i: i,
    }
    source = tf.data.Dataset.range(9)
    if kind == "reads what cannot be read again":
        source = tf.data.Dataset.from_generator(
            lambda: numbers, output_signature=tf.TensorSpec([], tf.int64)
        )
    dataset = source.map(lambda i: tf.numpy_function(functions[kind], [i], tf.int64)).batch(2)
    assert "the Python function of a .map()" in own_rows(dataset, Share(0, 1, 2))
    if kind == "reads what cannot be read again":
        assert next(numbers) == 0  # the look has read nothing


def test_a_python_function_may_be_declared_to_keep_no_state():
    def draws(i):
        return np.int64(np.random.randint(9))

    dataset = tf.data.Dataset.range(9).map(
        lambda i: tf.numpy_function(draws, [i], tf.int64, stateful=False)
    )
    assert isinstance(own_rows(dataset.batch(2), Share(0, 1, 2)), OwnRows)


def test_nothing_is_done_where_no_map_makes_the_examples():
    assert own_rows(tf.data.Dataset.range(9).shuffle(3, seed=1).batch(2), Share(0, 1, 2)) is None


def test_other_elements_or_another_order_give_another_sample():
    def samples(dataset):
        source = dataset_source(dataset.map(abs).batch(5), share=Share(0, 1, 2), is_sampled=True)
        return [int(element[2]) for element in source.stream(0, 0)]

    one, other = (tf.data.Dataset.range(9).shuffle(9, seed=seed) for seed in (1, 2))
    assert samples(one) == samples(tf.data.Dataset.range(9).shuffle(9, seed=1)) != samples(other)


def test_what_stands_in_the_way_is_told_once_on_the_chief(caplog):
    dataset = tf.data.Dataset.range(9).batch(2).map(abs)
    for share in _shares(2, 1):
        dataset_source(dataset, share=share)
    (text,) = [record.getMessage() for record in caplog.records]
    assert "Every worker makes all examples" in text
    assert "a .map() after .batch() gets the rows of a batch together" in text


@pytest.mark.parametrize("name", pipelines.PIPELINES)
def test_the_pipelines_of_the_parity_table_can_be_cut(name):
    assert isinstance(own_rows(pipelines.PIPELINES[name](), Share(0, 1, 3)), OwnRows)


@pytest.mark.parametrize("drops", [True, False])
def test_shapes_show_what_those_of_whole_batches_show(drops):
    numbers = tf.data.Dataset.range(16)
    plain = numbers.batch(8, drop_remainder=drops)
    mapped = numbers.map(lambda number: number).batch(8, drop_remainder=drops)
    for share in _shares(4, 2):
        whole, own = (dataset_source(one, share=share) for one in (plain, mapped))
        assert (whole.makes_own_rows, own.makes_own_rows) == (False, True)
        shapes = [[part.shape[0] for part in one.stream(0, 0).element_spec[1]]
                  for one in (whole, own)]
        assert shapes[0] == shapes[1] == ([2, 2] if drops else [None, None])


def test_the_datasets_of_other_topics_can_be_cut_too():
    for case in cut_datasets.ROWS:
        assert isinstance(own_rows(case.data()["x"], Share(0, 1, 3)), OwnRows), case.name
