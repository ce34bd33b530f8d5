"""Do Parquet files hold what a frame would, batch by batch, and nothing of what was left out?"""

from __future__ import annotations

import datetime
import sys

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tfdist.privacy import parquet_tables, pseudonymise, pseudonyms


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv(pseudonyms.KEY, "ab" * 32)
    monkeypatch.setattr(parquet_tables, "_BATCH_ROWS", 2)


_RULES = {
    "identifiers": {"id": "patient"}, "bands": {"age": 10, "day": "month"}, "suppress": ["name"],
    "keep": ["large", "list"], "quasi_identifiers": ["age"],
}  # fmt: skip
_LARGE = 2**62 + 1  # no float holds it


def _table() -> pa.Table:
    days = [datetime.date(2024, 2, 1 + number) for number in range(5)]
    return pa.table(
        {
            "id": pa.array([_LARGE, None, 8, 7, 9], pa.int64()),
            "age": pa.array([31, 38, None, 44, 39], pa.int32()),
            "day": pa.array(days, pa.date32()),
            "name": ["secret-one", "b", "c", "d", "secret-two"],
            "large": pa.array([_LARGE, None, 3, 4, 5], pa.int64()),
            "list": [[1.5], [], None, [2.5, 3.5], [4.5]],
        },
        metadata={"note": "secret-note"},
    )


def _read(path) -> pa.Table:
    return pq.ParquetFile(path).read()


def test_it_is_what_a_frame_gives(tmp_path):
    pq.write_table(_table(), tmp_path / "in.parquet")
    report = pseudonymise(tmp_path / "in.parquet", tmp_path / "out.parquet", **_RULES)
    found = _read(tmp_path / "out.parquet")
    frame = pd.DataFrame({"id": pd.array([_LARGE, None, 8, 7, 9], "Int64")})
    expected, _ = pseudonymise(frame, identifiers={"id": "patient"})
    assert found["id"].to_pylist() == [None if pd.isna(one) else one for one in expected["id"]]
    assert found["age"].to_pylist() == [30, 30, None, 40, 30]
    assert found["day"].to_pylist() == [datetime.date(2024, 2, 1)] * 5
    assert found["large"].to_pylist() == [_LARGE, None, 3, 4, 5]
    assert found["list"].to_pylist() == _table()["list"].to_pylist()
    for name in ("age", "day", "large", "list"):
        assert found.schema.field(name).type == _table().schema.field(name).type
    assert (report.rows, report.classes, report.smallest) == (5, 3, 1)


def test_nothing_of_what_was_left_out_is_in_the_file(tmp_path):
    pq.write_table(_table(), tmp_path / "in.parquet", compression="none")
    pseudonymise(tmp_path / "in.parquet", tmp_path / "out.parquet", **_RULES)
    assert b"secret" in (tmp_path / "in.parquet").read_bytes()
    assert b"secret" not in (tmp_path / "out.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]


def test_rows_are_counted_over_all_files_of_a_folder(tmp_path):
    (tmp_path / "in" / "deep").mkdir(parents=True)
    pq.write_table(_table().slice(0, 2), tmp_path / "in" / "a.parquet")
    pq.write_table(_table().slice(2, 3), tmp_path / "in" / "deep" / "b.parquet")
    pq.write_table(_table().slice(5), tmp_path / "in" / "none.parquet")
    report = pseudonymise(str(tmp_path / "in"), tmp_path / "out", **_RULES, k=3)
    assert _read(tmp_path / "out" / "a.parquet")["age"].to_pylist() == [30, 30]
    assert _read(tmp_path / "out" / "deep" / "b.parquet")["age"].to_pylist() == [30]
    assert _read(tmp_path / "out" / "none.parquet").num_rows == 0
    assert (report.rows, report.left_out, report.smallest) == (3, 2, 3)


def test_bands_of_other_types(tmp_path):
    zone = pa.timestamp("us", "Asia/Tokyo")
    when = pa.array([datetime.datetime(2024, 5, 6, 7)], pa.timestamp("us")).cast(zone)
    table = pa.table({"x": pa.array([3], pa.int64()), "when": when, "f": pa.array([1.7])})
    pq.write_table(table, tmp_path / "in")
    bands = {"x": [0, 2.5], "when": "year", "f": 0.5}
    pseudonymise(tmp_path / "in", tmp_path / "out", bands=bands)
    found = _read(tmp_path / "out")
    assert found["x"].to_pylist() == [2.5]
    assert found["f"].to_pylist() == [1.5]
    assert found["when"].to_pylist() == [datetime.datetime(2024, 1, 1)]


def test_what_fails_leaves_nothing(tmp_path):
    table = _table().set_column(0, "id", pa.array([1.0, 2.0, 3.0, 4.0, 5.5]))
    pq.write_table(table, tmp_path / "in")
    with pytest.raises(ValueError, match="neither a text nor a whole number"):
        pseudonymise(tmp_path / "in", tmp_path / "out", **_RULES)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("is_folder", [True, False])
def test_what_cannot_be_written_leaves_nothing(tmp_path, monkeypatch, is_folder):
    source = tmp_path / "in"
    if is_folder:
        source.mkdir()
    pq.write_table(_table(), source / "a.parquet" if is_folder else source)

    def full(path, tables):
        path.write_bytes(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(parquet_tables, "_write", full)
    with pytest.raises(OSError, match="No space left"):
        pseudonymise(source, tmp_path / "out", **_RULES)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_refused(tmp_path):
    pq.write_table(_table(), tmp_path / "in")
    with pytest.raises(ValueError, match="and to=None. Name the new file"):
        pseudonymise(tmp_path / "in", **_RULES)
    with pytest.raises(FileExistsError, match="is there already"):
        pseudonymise(tmp_path / "in", tmp_path / "in", **_RULES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="There is no Parquet file in"):
        pseudonymise(tmp_path / "empty", tmp_path / "out", **_RULES)


def test_missing_library_names_the_extra(tmp_path, monkeypatch):
    pq.write_table(_table(), tmp_path / "in")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(ImportError, match=r"pip install 'tfdist\[privacy\]'"):
        pseudonymise(tmp_path / "in", tmp_path / "out", **_RULES)
