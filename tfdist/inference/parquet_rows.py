"""How are rows of Parquet files read for predictions?

Unlike training's reading (parquet.py), a missing value is a bad row here and no error, since the
predictions of the others are wanted all the same. Row groups are read whole, one at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from tfdist.data.files import parquet_files
from tfdist.inference.rows import Bad, Block, plain


@dataclasses.dataclass(frozen=True, eq=False)
class ParquetRows:
    """Rows of Parquet files.

    Attributes:
        files: Paths, in the order of the rows; or a folder, which has them at any depth, in the
            order of their names. Names that begin with "_" or "." do not count there.
        columns: The model's inputs. One gives an array; several a dict by name.
        id_column: The column that names each row; without one, its number does.
    """

    files: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
    columns: Sequence[str]
    id_column: str | None = None
    _last: dict[int, Any] = dataclasses.field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.columns, str):
            raise ValueError(f"columns={self.columns!r} is a text. Give a list of texts.")
        for file, _, _, names in self._groups:
            for name in self._names:
                if name not in names:
                    raise ValueError(f"{file} has no column {name!r}; it has {names}.")

    def __len__(self) -> int:
        return sum(rows for _, _, rows, _ in self._groups)

    def describe(self) -> Any:
        files = [[file.name, rows] for file, _, rows, _ in self._groups]
        return [list(self.columns), self.id_column, files]

    def read(self, begin: int, end: int) -> Block:
        pyarrow = parquet_files.module()
        pieces, first = [], 0
        for number, (_, _, rows, _) in enumerate(self._groups):
            low, high = max(begin - first, 0), min(end - first, rows)
            if low < high:
                pieces.append(self._read_group(number).slice(low, high - low))
            first += rows
        return self._block(pyarrow, pyarrow.concat_tables(pieces), begin)

    @property
    def _names(self) -> list[str]:
        return list(dict.fromkeys([*self.columns, *([self.id_column] if self.id_column else [])]))

    @functools.cached_property
    def _groups(self) -> list[tuple[pathlib.Path, int, int, list[str]]]:
        """Returns file, number in it, rows and columns of each row group."""
        pyarrow, found = parquet_files.module(), []
        if isinstance(self.files, (str, os.PathLike)):
            files = parquet_files.files_in(pathlib.Path(self.files))
        else:
            files = [pathlib.Path(file) for file in self.files]
        for file in files:
            with parquet_files.opened(pyarrow, file) as source:
                names, metadata = source.schema_arrow.names, source.metadata
                for number in range(metadata.num_row_groups):
                    found.append((file, number, metadata.row_group(number).num_rows, names))
        return found

    def _read_group(self, number: int) -> Any:
        if number not in self._last:  # the last one alone is kept
            file, group, _, _ = self._groups[number]
            pyarrow = parquet_files.module()
            table = parquet_files.read_group(pyarrow, file, group, self._names)
            self._last.clear()
            self._last[number] = table
        return self._last[number]

    def _block(self, pyarrow: Any, table: Any, begin: int) -> Block:
        number = np.arange(begin, begin + len(table))
        reasons: dict[int, str] = {}  # by row of the table
        for name in self.columns:
            self._find_bad(pyarrow, name, table.column(name), reasons)
        ids = number if self.id_column is None else np.asarray(table.column(self.id_column))
        is_good = np.ones(len(table), bool)
        is_good[list(reasons)] = False
        bad = tuple(Bad(plain(ids[row]), why) for row, why in sorted(reasons.items()))
        good = table.filter(pyarrow.array(is_good))
        if not len(good):
            return Block(None, ids[is_good], bad)
        x = {name: _array(pyarrow, good.column(name)) for name in self.columns}
        return Block(x[self.columns[0]] if len(x) == 1 else x, ids[is_good], bad)

    def _find_bad(self, pyarrow: Any, name: str, column: Any, reasons: dict[int, str]) -> None:
        for number in np.flatnonzero(column.is_null().to_numpy()):
            reasons.setdefault(int(number), f"the column {name!r} has no value")
        if not parquet_files.is_list(pyarrow, column.type):
            return
        lengths = pyarrow.compute.list_value_length(column).to_numpy(zero_copy_only=False)
        width = self._widths.setdefault(name, _most_common(lengths))
        for number in np.flatnonzero(~np.isnan(lengths.astype(float)) & (lengths != width)):
            why = f"the column {name!r} has {int(lengths[number])} values, not {width}"
            reasons.setdefault(int(number), why)
        values = column.combine_chunks()
        if not values.flatten().null_count:
            return
        for row, value in enumerate(column.to_pylist()):
            if value is not None and None in value:
                reasons.setdefault(row, f"the column {name!r} has a list with no value in it")

    @functools.cached_property
    def _widths(self) -> dict[str, int]:
        """The length of the lists of each column, as the first row group has them."""
        pyarrow = parquet_files.module()
        table, widths = self._read_group(0), {}
        for name in self.columns:
            if parquet_files.is_list(pyarrow, table.column(name).type):
                lengths = pyarrow.compute.list_value_length(table.column(name))
                widths[name] = _most_common(lengths.to_numpy(zero_copy_only=False))
        return widths


def _most_common(lengths: np.ndarray) -> int:
    known = lengths[~np.isnan(lengths.astype(float))].astype(int)
    return int(np.bincount(known).argmax()) if len(known) else 0


def _array(pyarrow: Any, column: Any) -> np.ndarray:
    if not parquet_files.is_list(pyarrow, column.type):
        return np.asarray(column.to_numpy())
    return np.asarray(column.combine_chunks().flatten().to_numpy()).reshape(len(column), -1)
