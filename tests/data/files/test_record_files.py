"""Does each worker read its own records only, in an order that is the same for any of them?"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

import tfdist
from tfdist.communication.share import Share
from tfdist.data.files import record_index
from tfdist.data.files.record_files import from_files
from tfdist.data.order import block_order, epoch_order
from tfdist.data.pipelines.tf_data import dataset_source

_COUNT = 23


def _parse(line):
    number = tf.strings.to_number(line)
    return tf.fill([3], number), number


@pytest.fixture(name="files")
def _files(tmp_path):
    lines = [str(number) for number in range(_COUNT)]
    parts = {"a": lines[:9], "b": [], "c": lines[9:]}
    for name, part in parts.items():
        (tmp_path / name).write_text("".join(f"{line}\n" for line in part))
    return [tmp_path / name for name in parts]


def _dataset(files, **options):
    return from_files(files, _parse, format="text", **{"batch_size": 5, **options})


def _numbers(batches):
    return [int(y) for _, ys in batches for y in ys]


@pytest.mark.parametrize("shuffle", [False, True, 4])
def test_each_pass_has_each_record_once_in_its_order(files, shuffle):
    dataset = _dataset(files, shuffle=shuffle, seed=7)
    assert int(dataset.cardinality()) == 5
    orders = {
        False: lambda number: range(_COUNT),
        True: lambda number: epoch_order(_COUNT, seed=7, epoch=number),
        4: lambda number: block_order(_COUNT, block=4, seed=7, epoch=number),
    }
    for number in range(3):
        assert _numbers(dataset) == list(orders[shuffle](number))


@pytest.mark.parametrize("total", [1, 2, 3])
def test_workers_read_what_one_reads_from_any_batch_on(files, total, monkeypatch):
    read, plain = [], _dataset(files, shuffle=True, seed=1)
    passes = [list(plain) for _ in range(2)]
    wanted = [batch for batches in passes for batch in batches][2:]
    whole = record_index.Records.read

    def noted(self, number):
        read.append(int(number))
        return whole(self, number)

    monkeypatch.setattr(record_index.Records, "read", noted)
    found = []
    for rank in range(total):
        source = dataset_source(
            _dataset(files, shuffle=True, seed=1), share=Share(rank, 1, total), goes_on=True
        )
        assert source.is_seekable
        assert source.endless
        read.clear()
        stream = itertools.islice(source.stream(0, 2), len(wanted))
        found.append([element[1][0][1].numpy().tolist() for element in stream])
        if total == 1:
            before = {int(y) for _, ys in passes[0][:2] for y in ys}
            assert not before & set(read[:5])
    for number, batch in enumerate(wanted):
        together = [value for part in found for value in part[number]]
        assert together == batch[1].numpy().tolist()


@settings(max_examples=30)
@given(
    count=st.integers(1, 60), block=st.integers(1, 20), together=st.integers(1, 4),
    epoch=st.integers(0, 3),
)
def test_an_order_of_blocks_has_each_record_once_and_neighbours_near(
    count, block, together, epoch
):
    order = block_order(count, block=block, seed=5, epoch=epoch, together=together)
    assert sorted(order) == list(range(count))
    again = block_order(count, block=block, seed=5, epoch=epoch, together=together)
    assert order.tolist() == again.tolist()
    window = block * together
    for begin in range(0, count, window):
        assert len({number // block for number in order[begin : begin + window]}) <= together + 1


def test_training_on_two_replicas_is_that_of_stock_keras_on_one(files):
    def model():
        dense = keras.layers.Dense(1, kernel_initializer="ones")
        made = keras.Sequential([keras.Input([3]), dense])
        made.compile(keras.optimizers.SGD(1e-4, momentum=0.9), "mse")
        return made

    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    stock = model()
    options = {"epochs": 3, "shuffle": False, "verbose": 0}
    wanted = stock.fit(_dataset(files, shuffle=True), **options).history["loss"]
    with strategy.scope():
        ours = model()
    found = tfdist.fit(ours, _dataset(files, shuffle=True), **options).history["loss"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(ours.get_weights()[0], stock.get_weights()[0], rtol=1e-5)


def test_a_python_function_that_parses_is_tried_without_an_effect_on_the_order(files):
    def parse(line):
        number = tf.numpy_function(lambda text: np.float32(text), [line], tf.float32)
        return tf.ensure_shape(number, [])

    dataset = from_files(files, parse, batch_size=5, format="text", shuffle=True)
    source = dataset_source(dataset, share=Share(0, 1, 2))
    assert source.makes_own_rows
    first = [int(value) for batch in dataset for value in batch]
    assert first == epoch_order(_COUNT, seed=0, epoch=0).tolist()


def test_wrong_arguments_are_refused(files):
    with pytest.raises(ValueError, match="have no records"):
        _dataset(files[1:2])
    with pytest.raises(ValueError, match="shuffle=0 is no number of records"):
        _dataset(files, shuffle=0)


def test_where_the_order_is_another_the_workers_can_tell(files):
    facts = [
        dataset_source(_dataset(files, shuffle=True, seed=seed), share=Share(0, 1, 2)).identity()
        for seed in (1, 2)
    ]
    assert facts[0]["order of records"] != facts[1]["order of records"]
