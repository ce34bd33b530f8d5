"""Which rows of a folder of Parquet files are this worker's?

What an engine holds reaches the workers through files: Ray's `dataset.write_parquet(folder)`,
Spark's `frame.write.parquet(folder)` and Dask's `frame.to_parquet(folder)` write a folder that all
workers can see, and each worker reads its own rows of it, every row being exactly one worker's.

Synopsis:

    >>> import tempfile, pyarrow, pyarrow.parquet
    >>> folder = tempfile.mkdtemp()
    >>> table = pyarrow.table({"x": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], "y": [0, 1, 1]})
    >>> pyarrow.parquet.write_table(table, folder + "/part-0.parquet")
    >>> rows = read_share(folder, rank=0, size=2)
    >>> rows["x"].tolist(), rows["y"].tolist()
    ([[1.0, 2.0], [3.0, 4.0]], [0, 1])

All files have one schema, and no value is missing: what differs is refused, with the names of file,
column and row group, from what the ends of all files say, so by all workers alike.

On a worker, `rank` and `size` are those of the job, and the rows go to
`tfdist.fit(model, rows["x"], rows["y"], already_sharded=True)`.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfdist.cluster.worker_number import rank_and_size
from tfdist.communication.share import bounds
from tfdist.data.files.parquet_files import files_in, is_list, module, opened, read_group

_PARTITION = re.compile(r"([^=]+)=.*")  # a folder of Hive's kind, which holds a column's value


@dataclasses.dataclass(frozen=True)
class _Group:
    """A row group of a file.

    Attributes:
        file: The file.
        number: Of the group in it.
        rows: How many it has.
        nulls: Missing values by column, where the file says it.
        lengths: Values for each row by column; of lists, the mean length.
    """

    file: pathlib.Path
    number: int
    rows: int
    nulls: dict[str, int]
    lengths: dict[str, float]

    def __str__(self) -> str:
        return f"row group {self.number} of {self.file}"


def read_share(
    folder: str | os.PathLike[str],
    *,
    columns: Sequence[str] | None = None,
    rank: int | None = None,
    size: int | None = None,
) -> dict[str, np.ndarray]:
    """Reads this worker's rows of all Parquet files in a folder.

    The rows of all files, in the order of the files' names, are split evenly and in one piece each;
    only the row groups that hold some of them are read.

    Args:
        folder: Has the files, at any depth; names that begin with "_" or "." do not count.
        columns: The columns to read; by default all.
        rank: This worker's number, from 0; by default that of the job.
        size: The number of workers; by default that of the job.

    Returns:
        One array a column, of this worker's rows, of the same dtype and width on all workers. Lists
        of one length become rows of a matrix.

    Raises:
        ValueError: There is no Parquet file, no row or no such column; a file cannot be read or has
            another schema; a value is missing; the lists of a column have several lengths; or a
            column has a type that is no array's.
        ImportError: pyarrow is missing.
    """
    pyarrow = module()
    root = pathlib.Path(folder)
    files = files_in(root)
    rank, size = rank_and_size(rank, size)
    types: dict[str, Any] = {}
    groups: list[_Group] = []
    for file in files:
        with opened(pyarrow, file) as source:
            if not source.metadata.num_rows:
                continue  # engines write such files, too, and can only guess their types
            found = _types(source.schema_arrow, file=file)
            types = types or _chosen(found, columns, root=root, files=files, file=file)
            first = groups[0].file if groups else file
            _refuse_other(types, found, file=file, first=first, is_all=columns is None)
            groups += _groups(source.metadata, file, list(types))
    total = sum(group.rows for group in groups)
    if not total:
        raise ValueError(f"The Parquet files in {root} have no row. Write some first.")
    widths = _widths(pyarrow, types, groups)
    start, stop = bounds(total, rank, size)
    pieces = list(_pieces(pyarrow, groups, start, stop, list(types)))
    return {
        name: np.concatenate(
            [_array(pyarrow, name, piece.column(name), group, widths) for group, piece in pieces]
        )
        for name in types
    }


# ------------------------------------------------------------------------- what the files say


def _types(schema: Any, *, file: pathlib.Path) -> dict[str, Any]:
    """Returns the type of each column by name."""
    if twice := sorted({name for name in schema.names if schema.names.count(name) > 1}):
        raise ValueError(f"{file} has the column {twice[0]!r} twice. Give each a name of its own.")
    return dict(zip(schema.names, schema.types, strict=True))


def _chosen(
    found: dict[str, Any],
    columns: Sequence[str] | None,
    *,
    root: pathlib.Path,
    files: Sequence[pathlib.Path],
    file: pathlib.Path,
) -> dict[str, Any]:
    """Returns the columns to read, with their types."""
    folders = {part for each in files for part in each.relative_to(root).parts[:-1]}
    partitions = sorted({match[1] for part in folders if (match := _PARTITION.fullmatch(part))})
    for name in columns or ():
        if name not in found and name not in partitions:
            raise ValueError(f"{file} has no column {name!r}; it has {list(found)}.")
    if lost := [name for name in partitions if columns is None or name in columns]:
        raise ValueError(
            f"The column {lost[0]!r} is in the names of folders in {root}, not in the files. Write "
            "the data without partitions, or choose the other columns by columns=."
        )
    return {name: found[name] for name in columns or found}


def _refuse_other(
    types: dict[str, Any],
    found: dict[str, Any],
    *,
    file: pathlib.Path,
    first: pathlib.Path,
    is_all: bool,
) -> None:
    """Refuses a file whose columns are not those of the first one."""
    cure = "Write all files with one schema."
    for name, kind in types.items():
        if name not in found:
            raise ValueError(f"{file} has no column {name!r}, which {first} has. {cure}")
        if found[name] != kind:
            raise ValueError(
                f"The column {name!r} has the type {found[name]} in {file}, and {kind} in {first}. "
                f"{cure}"
            )
    if more := [name for name in found if is_all and name not in types]:
        raise ValueError(f"{file} has a column {more[0]!r}, which {first} has not. {cure}")


def _groups(metadata: Any, file: pathlib.Path, names: list[str]) -> Iterator[_Group]:
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        parts = [group.column(i) for i in range(group.num_columns)]
        nulls, lengths = {}, {}
        for part in parts:
            name = part.path_in_schema
            if name in names and part.statistics is not None and part.statistics.has_null_count:
                nulls[name] = part.statistics.null_count
            owner = next((n for n in names if name == n or name.startswith(f"{n}.")), name)
            lengths[owner] = part.num_values / max(group.num_rows, 1)
        yield _Group(file, number, group.num_rows, nulls, lengths)


def _widths(pyarrow: Any, types: dict[str, Any], groups: list[_Group]) -> dict[str, int]:
    """Returns the length of the lists of each column that has some; checks what all groups say."""
    for group in groups:
        for name, number in group.nulls.items():
            if number:
                raise _missing(name, number, group)
    widths = {}
    for name, kind in types.items():
        inner = kind.value_type if is_list(pyarrow, kind) else kind
        if pyarrow.types.is_nested(inner) or pyarrow.types.is_null(inner):
            raise ValueError(
                f"The column {name!r} has the type {kind} in {groups[0].file}, and arrays hold "
                "numbers, texts and lists of them. Write it as such, or leave it out by columns=."
            )
        if inner is kind:
            continue
        known = [group for group in groups if group.rows]
        widths[name] = width = round(known[0].lengths[name])
        for group in known:
            if group.lengths[name] != width:
                lengths = (group.lengths[name], known[0].lengths[name])
                raise ValueError(
                    f"The lists of column {name!r} have {lengths[0]:g} values on average in {group}"
                    f", where a missing one counts as 1, and {lengths[1]:g} in {known[0]}. Pad all "
                    "to one length before they are written."
                )
    return widths


def _missing(name: str, number: int, group: _Group) -> ValueError:
    return ValueError(
        f"The column {name!r} has {number} missing values in {group}, and arrays hold none. Fill "
        "them, or drop those rows, before they are written."
    )


# ------------------------------------------------------------------------------- this worker's rows


def _pieces(
    pyarrow: Any, groups: list[_Group], start: int, stop: int, names: list[str]
) -> Iterator[tuple[_Group, Any]]:
    """Gives the rows from `start` to `stop`: a table for each row group that holds some."""
    first = 0  # of the row group among all rows
    for group in groups:
        low, high = max(start - first, 0), min(stop - first, group.rows)
        if low < high:
            yield group, read_group(pyarrow, group.file, group.number, names).slice(low, high - low)
        first += group.rows
    if start == stop:  # fewer rows than workers: this one has none, but arrays like the others'
        group = next(group for group in groups if group.rows)
        yield group, read_group(pyarrow, group.file, group.number, names).slice(0, 0)


def _array(
    pyarrow: Any, name: str, column: Any, group: _Group, widths: dict[str, int]
) -> np.ndarray:
    if column.null_count:
        raise _missing(name, column.null_count, group)
    if name not in widths:
        return np.asarray(column.to_numpy())
    lengths = set(pyarrow.compute.list_value_length(column).to_pylist())
    if lengths - {widths[name]}:
        raise ValueError(
            f"The lists of column {name!r} have {len(lengths)} lengths in {group},"
            f" from {min(lengths)} to {max(lengths)}. Pad them to one before they are written."
        )
    values = pyarrow.compute.list_flatten(column)
    if values.null_count:
        raise _missing(name, values.null_count, group)
    return np.asarray(values.to_numpy()).reshape(len(column), widths[name])
