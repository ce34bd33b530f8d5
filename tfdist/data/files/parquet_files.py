"""Which Parquet files are there, and are they whole?

pyarrow's own errors do not name the file. Nothing here needs TensorFlow.
"""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator
from typing import Any

from tfdist.cluster.wording import shorten


def module() -> Any:
    """Returns pyarrow, with what reads Parquet files.

    Raises:
        ImportError: It is missing.
    """
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise ImportError(
            "Parquet files need pyarrow, which is not installed. Install it: pip install "
            "'tfdist[parquet]'."
        ) from None
    return pyarrow


def files_in(folder: pathlib.Path) -> list[pathlib.Path]:
    """Returns the Parquet files in a folder, in the order of their names.

    Raises:
        ValueError: There is none.
    """
    found = sorted(
        file
        for file in folder.rglob("*.parquet")
        if file.is_file()
        and not any(part[0] in "_." for part in file.relative_to(folder).parts)
    )
    if not found:
        raise ValueError(f"There is no Parquet file in {folder}. Give the folder that holds them.")
    return found


@contextlib.contextmanager
def opened(pyarrow: Any, file: pathlib.Path) -> Iterator[Any]:
    """Opens a file; one that is cut, empty or garbled is named."""
    try:
        opened = pyarrow.parquet.ParquetFile(file)
    except errors(pyarrow) as error:
        raise ValueError(f"{file} is no whole Parquet file ({error}). Write it again.") from error
    with opened:
        yield opened


def read_group(pyarrow: Any, file: pathlib.Path, number: int, names: list[str]) -> Any:
    """Reads columns of a row group, as a table; what cannot be read is named."""
    group = f"row group {number} of {file}"
    with opened(pyarrow, file) as source:
        try:
            return source.read_row_group(number, columns=names)
        except errors(pyarrow) as error:
            for name in names:
                try:
                    source.read_row_group(number, columns=[name])
                except errors(pyarrow) as cause:
                    raise ValueError(
                        f"The column {name!r} of {group} cannot be read ({shorten(str(cause))}). "
                        "Write the file again."
                    ) from cause
            raise ValueError(f"{group} cannot be read ({shorten(str(error))}).") from error


def errors(pyarrow: Any) -> tuple[type[Exception], ...]:
    """Returns what pyarrow raises for files that are no whole Parquet files."""
    return (OSError, MemoryError, UnicodeDecodeError, pyarrow.ArrowException)


def is_list(pyarrow: Any, kind: Any) -> bool:
    """Whether a column of this type holds lists."""
    types = pyarrow.types
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))
