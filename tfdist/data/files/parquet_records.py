"""How is a row of Parquet files read by its number?

Parquet is read in row groups, whole. So a group stays in memory while rows of it are asked for, and
the order of the rows (order.py, `group_order`) asks for those of a few groups at a time. Nothing
here needs TensorFlow.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import os
import pathlib
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfdist.data.files import parquet_files

_KEPT_GROUPS = 10  # the lanes of a batch, and those that begin while others end


@dataclasses.dataclass(frozen=True)
class Group:
    """A row group.

    Attributes:
        file: Its file.
        number: Its number in there.
        rows: How many rows it has.
    """

    file: pathlib.Path
    number: int
    rows: int


@dataclasses.dataclass(frozen=True, eq=False)
class ParquetRecords:
    """The rows of Parquet files, in the files' order, of which each can be read by its number.

    Attributes:
        files: The files.
        columns: The columns that are read.
        groups: Their row groups.
    """

    files: tuple[str, ...]
    columns: tuple[str, ...]
    groups: tuple[Group, ...]

    def __len__(self) -> int:
        """Returns the rows of all files."""
        return int(self._stops[-1]) if self.groups else 0

    def read(self, number: int) -> list[Any]:
        """Returns a row: a value of each column, or an array where it has lists.

        Raises:
            ValueError: The row group lacks a value, or has lists of different lengths.
        """
        which = int(np.searchsorted(self._stops, number, side="right"))
        row = number - int(self._stops[which]) + self.groups[which].rows
        return [column[row] for column in self._group(which)]

    @functools.cached_property
    def examples(self) -> list[np.ndarray]:
        """A row of each column, for its dtype and shape; one of a text has the dtype object."""
        return [np.asarray(column[0], dtype=column.dtype) for column in self._group(0)]

    def _group(self, which: int) -> list[np.ndarray]:
        with self._lock:
            if which not in self._kept:
                self._kept[which] = self._read_group(self.groups[which])
                if len(self._kept) > _KEPT_GROUPS:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(which)
            return self._kept[which]

    def _read_group(self, group: Group) -> list[np.ndarray]:
        pyarrow = parquet_files.module()
        names = list(self.columns)
        table = parquet_files.read_group(pyarrow, group.file, group.number, names)
        where = f"row group {group.number} of {group.file}"
        return [_as_array(pyarrow, table.column(name), f"The column {name!r} of {where}")
                for name in self.columns]

    @functools.cached_property
    def _stops(self) -> np.ndarray:
        """The number behind each group's last row."""
        return np.cumsum([group.rows for group in self.groups])

    @functools.cached_property
    def _kept(self) -> collections.OrderedDict[int, list[np.ndarray]]:
        return collections.OrderedDict()

    @functools.cached_property
    def _lock(self) -> threading.Lock:
        return threading.Lock()


def parquet_records_of(
    files: Sequence[str | os.PathLike[str]], *, columns: Sequence[str] | None
) -> ParquetRecords:
    """Finds the rows of Parquet files.

    Args:
        files: Their paths, in the order in which their rows are numbered.
        columns: Those to read; None for all of the first file.

    Raises:
        ImportError: pyarrow is missing.
        ValueError: There is no file, one is no Parquet file, or lacks a column.
    """
    pyarrow, groups = parquet_files.module(), []
    if not files:
        raise ValueError("There are no records: files is empty. Give the paths of files.")
    for file in map(pathlib.Path, files):
        with parquet_files.opened(pyarrow, file) as source:
            names = source.schema_arrow.names
            columns = names if columns is None else columns
            lacking = [name for name in columns if name not in names]
            if lacking:
                raise ValueError(
                    f"{file} has no column {', '.join(map(repr, lacking))}; it has {names}. Give "
                    "columns that all files have."
                )
            metadata = source.metadata
            rows = [metadata.row_group(n).num_rows for n in range(metadata.num_row_groups)]
        groups += [Group(file, number, count) for number, count in enumerate(rows) if count]
    return ParquetRecords(tuple(map(str, files)), tuple(columns or ()), tuple(groups))


def _as_array(pyarrow: Any, column: Any, which: str) -> np.ndarray:
    """Returns a column as an array with a row for each of its own."""
    values, width = column.combine_chunks(), None
    lacks = values.null_count
    if parquet_files.is_list(pyarrow, column.type):
        lengths = np.unique(pyarrow.compute.list_value_length(values).to_numpy(False))
        values = values.flatten()
        lacks, width = lacks or values.null_count, int(lengths[0])
        if len(lengths) > 1:
            raise ValueError(
                f"{which} has lists of {int(lengths[0])} to {int(lengths[-1])} values, which make "
                "no tensor. Write lists of one length, or serialized tensors."
            )
    if lacks:
        raise ValueError(f"{which} lacks {lacks} values. Fill them in, or leave those rows out.")
    types = pyarrow.types
    if not (types.is_boolean(values.type) or types.is_integer(values.type)
            or types.is_floating(values.type) or _is_text(types, values.type)):
        raise ValueError(
            f"{which} is of the type {column.type}, which is no tensor's. Write numbers, texts, or "
            "lists of them."
        )
    array = np.asarray(values.to_numpy(zero_copy_only=False))
    return array if width is None else array.reshape(len(column), width)


def _is_text(types: Any, kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind)
                or types.is_binary(kind) or types.is_large_binary(kind))
