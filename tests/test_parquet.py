"""Is each row of a folder of Parquet files exactly one worker's?"""

from __future__ import annotations

import functools
import re
import sys

import numpy as np
import pytest

from tfdist import parquet, testing

pyarrow = pytest.importorskip("pyarrow")
pytest.importorskip("pyarrow.parquet")

ROWS = 23


def write(folder, cuts=(0, 9, 10, 10, ROWS), group=4):
    """Writes 23 rows as several files of several row groups, one of them empty."""
    for number, (start, stop) in enumerate(zip(cuts, cuts[1:], strict=False)):
        ids = np.arange(start, stop)
        pairs = pyarrow.list_(pyarrow.float64())
        table = pyarrow.table(
            {
                "id": ids,
                "x": pyarrow.array([[float(i), i / 2] for i in ids], pairs),
                "name": [f"row {i}" for i in ids],
            }
        )
        file = folder / f"part-{number:02}.parquet"
        pyarrow.parquet.write_table(table, file, row_group_size=group)
    return folder


@pytest.mark.parametrize("size", [1, 2, 3, 5, 30])
def test_every_row_is_one_workers(tmp_path, size):
    shares = [parquet.read_share(write(tmp_path), rank=rank, size=size) for rank in range(size)]
    assert np.concatenate([share["id"] for share in shares]).tolist() == list(range(ROWS))
    counts = [len(share["id"]) for share in shares]
    assert max(counts) - min(counts) <= 1
    for share in shares:
        assert len(share["x"]) == len(share["id"])
        if len(share["id"]):
            assert share["x"].tolist() == [[i, i / 2] for i in share["id"]]
            assert share["name"].tolist() == [f"row {i}" for i in share["id"]]


def test_only_the_row_groups_that_are_needed_are_read(tmp_path, monkeypatch):
    read, original = [], pyarrow.parquet.ParquetFile.read_row_group

    def noted(file, group, **options):
        read.append(group)
        return original(file, group, **options)

    monkeypatch.setattr(pyarrow.parquet.ParquetFile, "read_row_group", noted)
    parquet.read_share(write(tmp_path, cuts=(0, ROWS)), rank=2, size=3)
    assert read == [4, 5], "rows 16 to 22, four to a group"


def test_columns_can_be_chosen(tmp_path):
    assert list(parquet.read_share(write(tmp_path), columns=["x"], rank=0, size=1)) == ["x"]


def test_what_engines_leave_beside_the_data_does_not_count(tmp_path):
    write(tmp_path)
    for name in ("_SUCCESS", "_metadata.parquet", ".part-00.parquet"):
        (tmp_path / name).write_text("")
    assert len(parquet.read_share(tmp_path, rank=0, size=1)["id"]) == ROWS


def test_the_place_is_that_of_the_job(tmp_path, monkeypatch):
    monkeypatch.setenv(
        "TF_CONFIG",
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}',
    )
    assert parquet.read_share(write(tmp_path))["id"].tolist() == list(range(12, ROWS))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"columns": ["z"], "rank": 0, "size": 1}, "has no column 'z'; it has"),
        ({"rank": 2, "size": 2}, "rank=2 and size=2 name no worker"),
        ({"rank": 0}, "rank=0 and size=None name no worker"),
    ],
)
def test_what_cannot_be_read(tmp_path, options, told):
    with pytest.raises(ValueError, match=told):
        parquet.read_share(write(tmp_path), **options)


def test_no_files(tmp_path):
    with pytest.raises(ValueError, match="There is no Parquet file in"):
        parquet.read_share(tmp_path, rank=0, size=1)


def test_lists_of_several_lengths(tmp_path):
    pyarrow.parquet.write_table(pyarrow.table({"x": [[1], [1, 2, 3]]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="column 'x' have 2 lengths in row .*, from 1 to 3"):
        parquet.read_share(tmp_path, rank=0, size=1)


def write_two(folder, second, first=None):
    """Writes two files, of two row groups each; returns the second one's path."""
    first = first or {"id": [0, 1, 2, 3], "x": X}
    for name, columns in (("a", first), ("b", second)):
        table = pyarrow.table(columns)
        pyarrow.parquet.write_table(table, folder / f"{name}.parquet", row_group_size=2)
    return folder / "b.parquet"


X = [[0.0, 1.0]] * 4


@pytest.mark.parametrize(
    ("second", "told", "who"),
    [
        ({"id": [4, 5, 6, None], "x": X}, "'id' has 1 missing values in row group 1 of {}", "all"),
        ({"id": [4, 5], "x": [*X[:1], None]}, "'x' have 1.5 values on average in row", "all"),
        ({"id": [4, 5, 6, 7], "x": [*X[:3], [0.0, None]]}, "'x' has 1 missing values in row", 1),
        ({"id": [4.0, 5.0], "x": X[:2]}, "'id' has the type double in {}, and int64 in", "all"),
        ({"id": [4, 5, 6, 7], "x": [[0, 1]] * 4}, "'x' has the type list<", "all"),
        ({"id": [4, 5, 6, 7]}, "{} has no column 'x', which", "all"),
        ({"id": [4], "x": X[:1], "y": [1]}, "{} has a column 'y', which", "all"),
        ({"id": [4], "x": [[1.0]]}, "'x' have 1 values on average in row group 0 of {}", "all"),
        ({"id": [4, 5], "x": [[1.0], [1.0] * 3]}, "'x' have 2 lengths in row group 0 of {}", 1),
    ],
)
def test_what_one_file_has_otherwise_is_named_with_its_place(tmp_path, second, told, who):
    file = write_two(tmp_path, second)
    # Worker 0 reads the other file. What is inside of lists only its reader sees.
    for rank in (0, 1) if who == "all" else (who,):
        with pytest.raises(ValueError, match=re.escape(told.format(file))) as refused:
            parquet.read_share(tmp_path, rank=rank, size=2)
        assert str(file) in str(refused.value)


@pytest.mark.parametrize("damage", ["empty", "cut", "garbled", "of another kind"])
def test_damaged_file_is_named(tmp_path, damage):
    file = write_two(tmp_path, {"id": [4, 5, 6, 7], "x": X})
    data = file.read_bytes()
    file.write_bytes({
        "empty": b"", "cut": data[: len(data) // 2], "of another kind": b"x" * 5000,
        "garbled": data[:-60] + b"\xff" * 52 + data[-8:],
    }[damage])  # fmt: skip
    with pytest.raises(ValueError, match=f"{re.escape(str(file))} is no whole Parquet file"):
        parquet.read_share(tmp_path, rank=0, size=2)


def test_garbled_values_are_named_with_column_and_row_group(tmp_path):
    file = write_two(tmp_path, {"id": [4, 5, 6, 7], "x": X})
    part = pyarrow.parquet.ParquetFile(file).metadata.row_group(1).column(0)
    begin = part.dictionary_page_offset or part.data_page_offset
    data = bytearray(file.read_bytes())
    data[begin : begin + part.total_compressed_size] = b"\xff" * part.total_compressed_size
    file.write_bytes(data)
    told = f"The column 'id' of row group 1 of {re.escape(str(file))} cannot be read"
    with pytest.raises(ValueError, match=told):
        parquet.read_share(tmp_path, rank=1, size=2)


def test_folders_of_partitions_hold_a_column(tmp_path):
    for year in (1, 2):
        (tmp_path / f"year={year}").mkdir()
        table = pyarrow.table({"id": [year]})
        pyarrow.parquet.write_table(table, tmp_path / f"year={year}" / "a.parquet")
    for columns in (None, ["year"]):
        with pytest.raises(ValueError, match="column 'year' is in the names of folders"):
            parquet.read_share(tmp_path, columns=columns, rank=0, size=1)
    found = parquet.read_share(tmp_path, columns=["id"], rank=0, size=1)
    assert found["id"].tolist() == [1, 2]


@pytest.mark.parametrize("value", [{"a": 1}, [[1.0]], None, [{"a": 1}]], ids=str)
def test_type_that_no_array_has(tmp_path, value):
    pyarrow.parquet.write_table(pyarrow.table({"x": [value]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match=r"column 'x' has (the type|1 missing)"):
        parquet.read_share(tmp_path, rank=0, size=1)


def test_worker_without_a_row_has_arrays_like_the_others(tmp_path):
    write_two(tmp_path, {"id": [4, 5, 6, 7], "x": X})
    shares = [parquet.read_share(tmp_path, rank=rank, size=9) for rank in range(9)]
    looks = {name: {(s[name].dtype, s[name].shape[1:]) for s in shares} for name in shares[0]}
    assert looks == {"id": {(np.dtype("int64"), ())}, "x": {(np.dtype("float64"), (2,))}}
    assert sorted(len(share["id"]) for share in shares) == [0] + [1] * 8


def test_no_row(tmp_path):
    write_two(tmp_path, {"id": []}, first={"id": []})
    with pytest.raises(ValueError, match="have no row"):
        parquet.read_share(tmp_path, rank=0, size=1)


def test_without_pyarrow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pip install 'tfdist\[parquet\]'"):
        parquet.read_share(tmp_path)


# ------------------------------------------------------------------------------ on real engines


def use(folder):
    """Trains for an epoch on this worker's rows; returns how often each row was used."""
    import keras
    from keras import ops

    import tfdist

    class Ledger(keras.metrics.Metric):
        def __init__(self):
            super().__init__(name="ledger")
            self.uses = self.add_variable((ROWS,), "zeros", name="uses")

        def update_state(self, y_true, y_pred, sample_weight=None):
            used = ops.one_hot(ops.cast(y_true[:, 0], "int32"), ROWS)
            self.uses.assign_add(ops.sum(used, axis=0))

        def result(self):
            return ops.max(ops.abs(self.uses - 1.0))

    strategy = tfdist.get_strategy("cpu")
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
        model.compile("sgd", "mse", metrics=[Ledger()])
    rows = parquet.read_share(folder)
    y = rows["id"].astype("float32")[:, np.newaxis]
    history = tfdist.fit(
        model, rows["x"] / ROWS, y, batch_size=6, verbose=0, already_sharded=True
    )
    return len(y), history.history["ledger"][-1]


def rows_of_all():
    """Returns all rows, as engines take them."""
    return [{"id": i, "x": [float(i), i / 2]} for i in range(ROWS)]


def write_by_ray(folder):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        ray.data.from_items(rows_of_all()).repartition(3).write_parquet(folder)
    finally:
        ray.shutdown()


def write_by_dask(folder):
    import dask
    import dask.dataframe
    import pandas

    dask.config.set({"dataframe.convert-string": False})  # or the lists become texts
    frame = dask.dataframe.from_pandas(pandas.DataFrame(rows_of_all()), npartitions=3)
    # Without a schema of the whole, which Dask guesses from an object of its own, not from lists.
    frame.to_parquet(folder, schema=None)


def write_by_spark(folder):
    from pyspark.sql import SparkSession

    session = (
        SparkSession.builder.master("local[2]")
        .config("spark.driver.host", "127.0.0.1")
        .config("spark.driver.bindAddress", "127.0.0.1")
        .getOrCreate()
    )
    try:
        session.createDataFrame(rows_of_all()).repartition(3).write.parquet(folder)
    finally:
        session.stop()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("package", "write_all"),
    [("ray.data", write_by_ray), ("dask.dataframe", write_by_dask), ("pyspark", write_by_spark)],
    ids=["ray", "dask", "spark"],
)
def test_what_an_engine_writes_is_used_once_by_two_workers(package, write_all, tmp_path):
    pytest.importorskip(package)
    folder = f"{tmp_path}/data"
    in_a_process_of_its_own(functools.partial(write_all, folder))
    results = testing.run_workers(use, args=(folder,), timeout_secs=120)
    assert [count for count, _ in results] == [12, 11]
    assert [worst for _, worst in results] == [0.0, 0.0], "each row is used once"


def in_a_process_of_its_own(work):
    """Engines start threads and daemons that would outlive the test."""
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join(200)
    assert process.exitcode == 0
