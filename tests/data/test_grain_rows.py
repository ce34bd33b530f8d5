"""Is a dataset of Grain what stock Keras makes of it, and does a worker make its own rows only?"""

from __future__ import annotations

import itertools
import logging
import warnings

import keras
import numpy as np
import pytest

import tfdist
from tfdist.communication.share import Share, bounds
from tfdist.data import rows
from tfdist.data.adapters import make_source
from tfdist.data.grain_rows import is_grain, numbered_rows
from tfdist.data.numbered_rows import NumberedRows

grain = pytest.importorskip("grain", reason="needs the extra grain")

_COUNT = 23


class _Source:
    """Random access, by which it is seen what was asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return _COUNT

    def __getitem__(self, number):
        self.asked.append(int(number))
        value = np.full([3], np.cos(number))
        return value, np.array([np.sin(number)])


def _examples(source=None):
    return grain.MapDataset.source(_Source() if source is None else source)


def _named(row):
    return {"x": row[0], "text": "a" * int(100 * row[1][0] ** 2), "number": float(row[1][0])}


def _noisy(row, rng):
    return row[0] + rng.normal(size=3), row[1]


_PIPELINES = {
    "as they lie": lambda d: d.batch(4),
    "shuffled, smaller batches left out": lambda d: d.shuffle(seed=3).batch(4, drop_remainder=True),
    "passes shuffled apart": lambda d: d.shuffle(seed=3).batch(4).repeat(2),
    "one pass again": lambda d: d.shuffle(seed=3).batch(4).repeat(2, reseed_each_epoch=False),
    "batches across passes": lambda d: d.shuffle(seed=3).repeat(2).batch(4),
    "lists": lambda d: d.map(list).batch(4),
    "names and texts": lambda d: d.map(_named).batch(4),
    "random maps": lambda d: d.seed(5).random_map(_noisy).shuffle().batch(4),
    "without an end": lambda d: d.shuffle(seed=3).batch(4).repeat(),
    "examples without an end": lambda d: d.shuffle(seed=3).repeat().batch(4),
    "less than a batch": lambda d: d[:3].batch(4),
}  # fmt: skip


@pytest.mark.parametrize("name", _PIPELINES)
@pytest.mark.parametrize("total", [1, 3])
def test_workers_together_have_what_grain_gives(name, total):
    wanted = list(itertools.islice(_PIPELINES[name](_examples()), 14))
    start = len(wanted) // 2
    for replica in range(total):
        dataset = _PIPELINES[name](_examples())
        assert isinstance(numbered_rows(dataset), NumberedRows)
        source = make_source(dataset, share=Share(replica, 1, total), shuffle=True)
        assert source.is_infinite == name.endswith("without an end")
        assert source.num_batches == (None if source.is_infinite else len(dataset))
        sizes = {len(keras.tree.flatten(batch)[0]) for batch in dataset[:12]}
        assert source.is_even == (sizes == {source.batch_size()})
        assert source.is_infinite or source.num_examples == sum(
            len(keras.tree.flatten(batch)[0]) for batch in dataset
        )
        found = list(itertools.islice(source.stream(0, start), len(wanted) - start))
        for (size, (part,)), batch in zip(found, wanted[start:], strict=True):
            leaves = keras.tree.flatten(batch)
            assert int(size) == len(leaves[0])
            first, last = rows.never_empty(*bounds(size, replica, total), size)
            for one, leaf in zip(keras.tree.flatten(part), leaves, strict=True):
                if leaf.dtype.kind == "U":
                    leaf = leaf.astype("S")
                np.testing.assert_array_equal(one.numpy(), leaf[int(first) : int(last)])


def test_each_of_two_workers_makes_half_of_the_rows_and_goes_on_at_once():
    asked = []
    for replica in range(2):
        data = _Source()
        dataset = _examples(data).shuffle(seed=1).batch(4).repeat(1000)
        source = make_source(dataset, share=Share(replica, 1, 2))
        data.asked.clear()
        stream = source.stream(0, 5995)
        list(itertools.islice(stream, 5))
        asked.append(data.asked)
    assert len(asked[0]) + len(asked[1]) <= 2 * _COUNT + 8  # some are read ahead, of the next pass
    assert all(len(own) <= 0.6 * 2 * _COUNT for own in asked)


@pytest.fixture(name="double")
def _double():
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx("float32")
    keras.config.set_dtype_policy("float32")


def _model():
    dense = keras.layers.Dense(1, kernel_initializer="ones")
    made = keras.Sequential([keras.Input([3]), dense])
    made.compile(keras.optimizers.SGD(0.05, momentum=0.9), "mse")
    return made


def _loader():
    sampler = grain.samplers.IndexSampler(_COUNT, shuffle=True, seed=2, num_epochs=1)
    operations = [grain.transforms.Batch(4)]
    return grain.DataLoader(data_source=_Source(), sampler=sampler, operations=operations)


_TRAINED = {
    "MapDataset": lambda: _PIPELINES["passes shuffled apart"](_examples()),
    "IterDataset": lambda: _examples().shuffle(seed=1).to_iter_dataset().batch(4),
    "DataLoader": _loader,
}


def _trained(model, fit, kind, **options):
    history = fit(model, _TRAINED[kind](), verbose=0, shuffle=False, **options)
    return [*history.history["loss"], *model.get_weights()]


def _by_stock_keras(kind, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the end of data whose length Keras does not know
        return _trained(_model(), keras.Model.fit, kind, **options)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("kind", _TRAINED)
def test_training_on_two_replicas_is_that_of_stock_keras_on_one(kind):
    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    wanted = _by_stock_keras(kind, epochs=2)
    with strategy.scope():
        model = _model()
    for one, other in zip(_trained(model, tfdist.fit, kind, epochs=2), wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


class _Stop(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if self.model.optimizer.iterations.numpy() == 15:
            raise KeyboardInterrupt


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    # Another 8 s, for what is read again as any generator is.
    "kind", ["MapDataset", pytest.param("IterDataset", marks=pytest.mark.slow)]
)
def test_a_run_goes_on_in_the_midst_of_a_pass_on_more_replicas(kind, tmp_path):
    options = {"epochs": 2, "steps_per_epoch": 6 if kind == "MapDataset" else None}
    wanted = _by_stock_keras(kind, **options)[-2:]
    found = []
    for device, callbacks in (("2xcpu", [_Stop()]), ("4xcpu", [])):
        with tfdist.get_strategy(device).scope():
            model = _model()
        options |= {"checkpoint_dir": tmp_path, "save_every": 4, "callbacks": callbacks}
        try:
            found = _trained(model, tfdist.fit, kind, **options)[-2:]
        except KeyboardInterrupt:
            assert callbacks
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9)


def _of_batch(values):
    return tuple(np.stack(leaves) - np.mean(leaves) for leaves in zip(*values, strict=True))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: _examples().batch(4, batch_fn=_of_batch), "not its examples side by side"),
        (lambda: _examples().map(lambda row: row[0] + np.random.rand()).batch(4), "side by side"),
        (lambda: _examples().batch(4).map(lambda batch: batch), "ends with a MapMapDataset"),
        (lambda: _examples().map(lambda row: object()).batch(4), "examples that are no arrays"),
        (lambda: _examples().to_iter_dataset().batch(4), "a BatchIterDataset of Grain gives one"),
        (_loader, "a DataLoader of Grain gives one batch after the other"),
    ],
)
def test_what_cannot_be_asked_for_rows_is_told(make, words):
    assert is_grain(make())
    assert words in numbered_rows(make())


def test_a_worker_is_told_once_that_it_makes_all_batches(caplog):
    with caplog.at_level(logging.WARNING, logger="tfdist"):
        for replica in range(2):
            make_source(_loader(), share=Share(replica, 1, 2))
        make_source(_loader(), share=Share(0, 2, 2))  # of one worker
    [record] = caplog.records
    assert "Give a grain.MapDataset that ends with .batch(n)" in record.getMessage()


def test_another_order_is_seen_before_the_first_step():
    def facts(seed):
        dataset = _examples().shuffle(seed=seed).batch(4)
        return make_source(dataset, share=Share(0, 1, 2)).identity()

    assert facts(1) == facts(1) != facts(2)
