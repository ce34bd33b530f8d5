"""Is a row of Parquet files read by its number, by each worker from its own row groups?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfdist
from tfdist.communication.share import Share
from tfdist.data.files import parquet_records
from tfdist.data.files.record_files import from_files
from tfdist.data.order import group_order
from tfdist.data.pipelines.tf_data import dataset_source

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")
pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")

_COUNT = 330


def _table(begin, end):
    numbers = np.arange(begin, end)
    lists = pyarrow.array([[float(n), 1.0, 2.0] for n in numbers], pyarrow.list_(pyarrow.float32()))
    return pyarrow.table({
        "x": lists, "y": numbers.astype("int32"), "word": [f"w{n}" for n in numbers],
        "flag": numbers % 2 == 0,
    })


@pytest.fixture(name="files", scope="module")
def _files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("parquet")
    for name, (begin, end) in {"a": (0, 130), "b": (130, 130), "c": (130, _COUNT)}.items():
        path = folder / f"{name}.parquet"
        pyarrow.parquet.write_table(_table(begin, end), path, row_group_size=20)
    return sorted(folder.glob("*.parquet"))


def _parse(row):
    return row["x"], row["y"]


def _dataset(files, **options):
    options = {"batch_size": 16, "format": "parquet", **options}
    return from_files(files, _parse, **options)


def _numbers(batches):
    return [int(y) for _, ys in batches for y in ys]


@pytest.mark.parametrize("shuffle", [False, True])
def test_each_pass_has_each_row_once_in_its_order(files, shuffle):
    dataset, sizes = _dataset(files, shuffle=shuffle, seed=3), [20] * 6 + [10] + [20] * 10
    for number in range(2):
        wanted = group_order(sizes, batch_size=16, seed=3, epoch=number) if shuffle else (
            np.arange(_COUNT)
        )
        batches = list(dataset)
        assert _numbers(batches) == wanted.tolist()
        assert all(float(x[0]) == int(y) for xs, ys in batches for x, y in zip(xs, ys, strict=True))


def test_every_kind_of_column_comes_as_it_is(files):
    [row] = from_files(files, lambda row: row, batch_size=1, format="parquet").take(1)
    assert {name: (value.dtype.name, value.numpy().tolist()) for name, value in row.items()} == {
        "x": ("float32", [[0.0, 1.0, 2.0]]), "y": ("int32", [0]), "word": ("string", [b"w0"]),
        "flag": ("bool", [True]),
    }
    only = from_files(files, lambda row: row, batch_size=1, format="parquet", columns=["y"])
    assert list(only.element_spec) == ["y"]


@pytest.mark.parametrize(("total", "most"), [(2, 0.6), (4, 0.4)])
def test_a_worker_reads_its_row_groups_alone(files, total, most, monkeypatch):
    """Half of them, and those in which one lane ends and the next begins."""
    read, found = [], []
    whole = parquet_records.ParquetRecords._read_group

    def noted(self, group):
        read.append((group.file.name, group.number))
        return whole(self, group)

    monkeypatch.setattr(parquet_records.ParquetRecords, "_read_group", noted)
    wanted = list(_dataset(files, shuffle=True, drop_remainder=True))
    for rank in range(total):
        dataset = _dataset(files, shuffle=True, drop_remainder=True)
        source = dataset_source(dataset, share=Share(rank, 1, total))
        assert source.makes_own_rows
        read.clear()
        found.append([element[1][0][1].numpy().tolist() for element in source.stream(0, 0)])
        # All but those that begin or end a lane are read once.
        assert len(set(read)) <= most * 17
        assert len(read) <= 1.5 * len(set(read))
    for number, (_, ys) in enumerate(wanted):
        assert [value for part in found for value in part[number]] == ys.numpy().tolist()


@settings(max_examples=40)
@given(
    sizes=st.lists(st.integers(1, 9), min_size=1, max_size=12), batch_size=st.integers(1, 20),
    lanes=st.integers(1, 8), epoch=st.integers(0, 2),
)
def test_an_order_of_groups_has_each_row_once(sizes, batch_size, lanes, epoch):
    options = {"batch_size": batch_size, "seed": 1, "epoch": epoch, "lanes": lanes}
    order = group_order(sizes, **options)
    assert sorted(order.tolist()) == list(range(sum(sizes)))
    assert order.tolist() == group_order(sizes, **options).tolist()


def test_training_on_two_replicas_is_that_of_stock_keras_on_one(files):
    def model():
        dense = keras.layers.Dense(1, kernel_initializer="ones")
        made = keras.Sequential([keras.Input([3]), dense])
        made.compile(keras.optimizers.SGD(1e-6, momentum=0.9), "mse")
        return made

    strategy = tfdist.get_strategy("2xcpu")
    assert strategy.num_replicas_in_sync == 2
    stock = model()
    options = {"epochs": 2, "shuffle": False, "verbose": 0}
    wanted = stock.fit(_dataset(files, shuffle=True), **options).history["loss"]
    with strategy.scope():
        ours = model()
    found = tfdist.fit(ours, _dataset(files, shuffle=True), **options).history["loss"]
    np.testing.assert_allclose(found, wanted, rtol=1e-5)
    np.testing.assert_allclose(ours.get_weights()[0], stock.get_weights()[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ([1.0, None], "The column 'v' of row group 0 of .* lacks 1 values"),
        ([[1, 2], [3]], "has lists of 1 to 2 values"),
        ([[1, None], [3, 4]], "lacks 1 values"),
        ([{"a": 1}, {"a": 2}], "which is no tensor's"),
    ],
)
def test_what_is_no_tensor_is_named(tmp_path, column, told):
    pyarrow.parquet.write_table(pyarrow.table({"v": column}), tmp_path / "v.parquet")
    with pytest.raises(ValueError, match=told):
        from_files([tmp_path / "v.parquet"], lambda row: row, batch_size=1, format="parquet")


def test_wrong_arguments_are_refused(files, tmp_path):
    with pytest.raises(ValueError, match="has no column 'z'; it has"):
        _dataset(files, columns=["y", "z"])
    with pytest.raises(ValueError, match="are those of Parquet"):
        _dataset(files, columns=["y"], format="text")
    with pytest.raises(ValueError, match="shuffle=4 is no number"):
        _dataset(files, shuffle=4)
    with pytest.raises(ValueError, match="have no records"):
        _dataset(files[1:2])
    with pytest.raises(ValueError, match="files is empty"):
        _dataset([])
    (tmp_path / "cut.parquet").write_bytes(files[0].read_bytes()[:100])
    with pytest.raises(ValueError, match=r"cut.parquet is no whole Parquet file"):
        _dataset([tmp_path / "cut.parquet"])
