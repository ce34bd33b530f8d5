"""Is a worker asked for its own rows only, and are the batches those that a PyDataset makes?"""

from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

import tfdist
from tfdist.communication.share import Share
from tfdist.data.adapters import make_source
from tfdist.data.order import epoch_order
from tfdist.data.rows_dataset import gives_rows


class _Rows(tfdist.RowsDataset):
    def __init__(self, **options):
        super().__init__(**{"num_rows": 11, "batch_size": 4, **options})
        self.asked = []

    def get_rows(self, indices):
        self.asked += [int(number) for number in indices]
        return {"a": indices[:, None] * np.ones([1, 3])}, (indices % 3).astype("float32")


def _batches(source, first_pass=0, start=0, count=3):
    return list(itertools.islice(source.stream(first_pass, start), count))


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_workers_together_have_the_batches_of_the_dataset(shuffle, workers):
    found = []
    for rank in range(2):
        dataset = _Rows(workers=workers)
        source = make_source(dataset, share=Share(rank, 1, 2), shuffle=shuffle, seed=3)
        assert (source.num_batches, source.num_examples) == (3, 11)
        dataset.asked.clear()
        found.append(_batches(source, 0, 2, 4))  # the end of a pass, and the next one
        assert set(dataset.asked) < set(range(11)) or workers > 1
    whole, number = _Rows(), 2
    for parts in zip(*found, strict=True):
        order = epoch_order(3, seed=3, epoch=number // 3) if shuffle else range(3)
        x, y = whole[order[number % 3]]
        assert [int(part[0]) for part in parts] == [len(y)] * 2
        for part, name in ((0, "x"), (1, "y")):
            together = [one[1][0][part] for one in parts]
            together = [one["a"] if name == "x" else one for one in together]
            wanted = x["a"] if name == "x" else y
            np.testing.assert_array_equal(np.concatenate(together)[: len(wanted)], wanted)
        number += 1


def test_each_of_two_workers_is_asked_for_half_of_the_rows():
    asked = []
    for rank in range(2):
        dataset = _Rows(num_rows=16)
        source = make_source(dataset, share=Share(rank, 1, 2))
        dataset.asked.clear()
        stream = source.stream(0, 0)
        list(itertools.islice(stream, 4))
        asked.append(set(dataset.asked[:8]))
    assert not asked[0] & asked[1]
    assert asked[0] | asked[1] == set(range(16))


def test_stock_keras_trains_on_it_as_tfdist_does_on_two_replicas():
    def model():
        a = keras.Input([3], name="a")
        made = keras.Model({"a": a}, keras.layers.Dense(1, kernel_initializer="ones")(a))
        made.compile(keras.optimizers.SGD(1e-3, momentum=0.9), "mse")
        return made

    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    stock = model()
    options = {"epochs": 2, "shuffle": False, "verbose": 0, "class_weight": {0: 2.0, 2: 0.5}}
    wanted = stock.fit(_Rows(), **options).history["loss"]
    with strategy.scope():
        ours = model()
    found = tfdist.fit(ours, _Rows(), **options).history["loss"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_a_dataset_that_makes_batches_in_its_own_way_is_asked_for_batches():
    class Own(_Rows):
        def __getitem__(self, index):
            return super().__getitem__(index)

    class Changing(_Rows):
        def on_epoch_end(self):
            self.asked.clear()

    assert gives_rows(_Rows())
    assert not gives_rows(Own())
    assert not gives_rows(Changing())


def test_wrong_sizes_and_a_missing_method_are_refused():
    with pytest.raises(ValueError, match="batch_size=0 must be 1 or more"):
        _Rows(batch_size=0)
    with pytest.raises(NotImplementedError, match=r"RowsDataset defines no get_rows\(indices\)"):
        tfdist.RowsDataset(num_rows=2, batch_size=1)[0]
