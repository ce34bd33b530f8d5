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

On a worker, `rank` and `size` are those of the job, and the rows go to
`tfdist.fit(model, rows["x"], rows["y"], already_sharded=True)`.
"""

from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfdist.cluster.detection import detect_cluster
from tfdist.communication.share import bounds


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
        One array a column, of this worker's rows. Lists of one length become rows of a matrix.

    Raises:
        ValueError: There is no Parquet file or no such column, or the lists of a column have
            several lengths.
        ImportError: pyarrow is missing.
    """
    parquet = _module()
    files = _files(pathlib.Path(folder))
    rank, size = _rank_and_size(rank, size)
    opened = [parquet.ParquetFile(file) for file in files]
    start, stop = bounds(sum(file.metadata.num_rows for file in opened), rank, size)
    known = opened[0].schema_arrow.names
    if unknown := [name for name in columns or () if name not in known]:
        raise ValueError(f"{files[0]} has no column {unknown[0]!r}; it has {known}.")
    names = list(columns or known)
    pieces = list(_pieces(opened, start, stop, names))
    return {name: _array(name, [piece.column(name) for piece in pieces]) for name in names}


def _module() -> Any:
    try:
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            "Reading Parquet files needs pyarrow, which is not installed. pip install"
            " 'tfdist[parquet]'."
        ) from None
    return pyarrow.parquet


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    found = sorted(
        file
        for file in folder.rglob("*.parquet")
        if not any(part[0] in "_." for part in file.relative_to(folder).parts)
    )
    if not found:
        raise ValueError(f"There is no Parquet file in {folder}. Give the folder that holds them.")
    return found


def _rank_and_size(rank: int | None, size: int | None) -> tuple[int, int]:
    if rank is None and size is None:
        cluster = detect_cluster(os.environ)
        return (cluster.rank, cluster.size) if cluster else (0, 1)
    if rank is None or size is None or not 0 <= rank < size:
        raise ValueError(
            f"rank={rank!r} and size={size!r} name no worker. Give both, the rank from 0 to size-1,"
            " or none of them."
        )
    return rank, size


def _pieces(opened: list[Any], start: int, stop: int, names: list[str]) -> Iterator[Any]:
    """Gives the rows from `start` to `stop`, a table for each row group that holds some."""
    number = 0  # of the first row of the row group among all
    for file in opened:
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            low, high = max(start - number, 0), min(stop - number, rows)
            if low < high:
                yield file.read_row_group(group, columns=names).slice(low, high - low)
            number += rows
    if start == stop:  # fewer rows than workers: this one has none, and its arrays no rows
        yield opened[0].schema_arrow.empty_table().select(names)


def _array(name: str, chunks: list[Any]) -> np.ndarray:
    values = np.concatenate([chunk.to_numpy() for chunk in chunks])
    if values.dtype != object or not len(values) or not isinstance(values[0], np.ndarray):
        return values
    lengths = {len(value) for value in values}
    if len(lengths) > 1:
        raise ValueError(
            f"The lists of column {name!r} have {len(lengths)} lengths, from {min(lengths)} to"
            f" {max(lengths)}. Pad them to one before they are written."
        )
    return np.stack(list(values))
