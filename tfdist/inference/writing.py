"""How do predictions become a file?  Blocks of them are added one by one; memory holds one."""

from __future__ import annotations

import pathlib
from types import TracebackType
from typing import Any, Protocol

import keras
import numpy as np

from tfdist.data.files import parquet_files


class Writer(Protocol):
    """Writes the predictions of one part; makes no file where none are added."""

    def add(self, ids: np.ndarray, outputs: Any) -> None:
        """Adds the outputs, with a row for each id."""

    def __enter__(self) -> Writer: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


class ParquetWriter:
    """Writes a Parquet file, a row group for each block.

    Args:
        path: The file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._file: Any = None

    def add(self, ids: np.ndarray, outputs: Any) -> None:
        """Adds the outputs, with a row for each id."""
        pyarrow = parquet_files.module()
        columns = {name: _column(pyarrow, array) for name, array in _named(outputs).items()}
        table = pyarrow.table({"id": pyarrow.array(ids), **columns})
        if self._file is None:
            self._file = pyarrow.parquet.ParquetWriter(self._path, table.schema)
        self._file.write_table(table)

    def __enter__(self) -> ParquetWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            self._file.close()


class NumPyWriter:
    """Writes a `.npz` file, with an array for each column; it holds a whole part in memory.

    Args:
        path: The file.
    """

    def __init__(self, path: pathlib.Path) -> None:
        self._path = path
        self._blocks: list[dict[str, np.ndarray]] = []

    def add(self, ids: np.ndarray, outputs: Any) -> None:
        """Adds the outputs, with a row for each id."""
        self._blocks.append({"id": ids, **_named(outputs)})

    def __enter__(self) -> NumPyWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._blocks and kind is None:
            names = self._blocks[0]
            joined: dict[str, Any] = {
                name: np.concatenate([block[name] for block in self._blocks]) for name in names
            }
            np.savez(self._path, **joined)


WRITERS: dict[str, tuple[str, type[ParquetWriter] | type[NumPyWriter]]] = {
    "parquet": (".parquet", ParquetWriter),
    "npz": (".npz", NumPyWriter),
}


def _named(outputs: Any) -> dict[str, np.ndarray]:
    """Names the outputs: "prediction", "prediction_0", ..., or by the keys of a dict."""
    if isinstance(outputs, dict):
        return {str(name): _known(array) for name, array in outputs.items()}
    arrays = [_known(array) for array in keras.tree.flatten(outputs)]
    if len(arrays) == 1:
        return {"prediction": arrays[0]}
    return {f"prediction_{number}": array for number, array in enumerate(arrays)}


def _known(outputs: Any) -> np.ndarray:
    """Returns an array of a type that files know: bfloat16 is none of NumPy's own."""
    array = np.asarray(outputs)
    return array if array.dtype.kind in "biufcUSO" else array.astype(np.float32)


def _column(pyarrow: Any, array: np.ndarray) -> Any:
    """Returns a column of numbers, or of nested lists of a fixed length."""
    column = pyarrow.array(array.reshape(-1))
    for length in reversed(array.shape[1:]):
        column = pyarrow.FixedSizeListArray.from_arrays(column, length)
    return column
