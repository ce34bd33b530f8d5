"""Are rows of Parquet files read in order, whatever their row groups, and missing values told?"""

from __future__ import annotations

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

from tfdist.inference.parquet_rows import ParquetRows


def write(folder, name, **columns):
    parquet.write_table(pyarrow.table(columns), folder / name, row_group_size=3)


@pytest.fixture
def folder(tmp_path):
    write(tmp_path, "b.parquet", key=["e", "f"], a=[4.0, 5.0], b=[[9, 1], [8, 2]])
    write(tmp_path, "a.parquet", key=list("wxyz"), a=[0.0, 1.0, 2.0, 3.0], b=[[0, 1]] * 4)
    return tmp_path


def test_any_range_is_read(folder):
    rows = ParquetRows(folder, ["a"])
    assert len(rows) == 6
    for begin in range(6):
        for end in range(begin + 1, 7):
            block = rows.read(begin, end)
            assert block.x.tolist() == block.ids.tolist() == list(range(begin, end))


def test_files_come_in_the_order_given(folder):
    rows = ParquetRows([folder / "b.parquet", folder / "a.parquet"], ["a", "b"], id_column="key")
    block = rows.read(0, 6)
    assert block.x["a"].tolist() == [4, 5, 0, 1, 2, 3]
    assert block.x["b"].tolist() == [[9, 1], [8, 2], *[[0, 1]] * 4]
    assert block.ids.tolist() == list("efwxyz")


def test_rows_with_missing_values_are_bad(tmp_path):
    write(
        tmp_path, "a.parquet", key=list("vwxyz"), a=[1, None, 3, 4, 5],
        b=[[1, 2], [1, 2], [1], [1, None], [3, 4]],
    )  # fmt: skip
    block = ParquetRows(tmp_path, ["a", "b"], id_column="key").read(0, 5)
    assert (block.x["a"].tolist(), block.x["b"].tolist()) == ([1, 5], [[1, 2], [3, 4]])
    assert np.issubdtype(block.x["a"].dtype, np.integer)
    assert block.ids.tolist() == ["v", "z"]
    assert [(bad.id, bad.reason) for bad in block.bad] == [
        ("w", "the column 'a' has no value"),
        ("x", "the column 'b' has 1 values, not 2"),
        ("y", "the column 'b' has a list with no value in it"),
    ]


def test_a_range_without_a_good_row(tmp_path):
    write(tmp_path, "a.parquet", a=[1.0, None])
    block = ParquetRows(tmp_path, ["a"]).read(1, 2)
    assert (block.x, block.ids.tolist(), len(block.bad)) == (None, [], 1)


@pytest.mark.parametrize(
    ("columns", "told"), [("a", "is a text"), (["c"], r"has no column 'c'; it has \['key'")]
)
def test_other_columns_are_refused(folder, columns, told):
    with pytest.raises(ValueError, match=told):
        ParquetRows(folder, columns)
