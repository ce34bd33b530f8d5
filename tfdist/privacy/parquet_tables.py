"""How are Parquet files written anew, with other columns and without some of their rows?

They are read twice, a batch of rows at a time: to count which rows are alike, and to write. Columns
that stay as they are never leave Arrow, so their types and values are what they were. What a file
says beside its columns (notes, statistics) is not taken over.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import secrets
import shutil
from collections import Counter
from collections.abc import Iterator
from typing import Any

from tfdist.privacy.anonymity import Anonymity, report_of, rows_of
from tfdist.privacy.rules import Rules

_BATCH_ROWS = 65_536


def rewritten(
    source: pathlib.Path, to: str | os.PathLike[str] | None, rules: Rules, k: int
) -> Anonymity:
    """Writes a file, or the files of a folder, anew; all of them, or none.

    Args:
        source: The file, or the folder.
        to: The new one.
        rules: What happens to the columns.
        k: Rows of which fewer are alike are left out.

    Raises:
        ValueError: A column or value is not as the rules want it, or `to` is missing.
        FileExistsError: `to` is there already.
        ImportError: pyarrow or pandas is not installed.
    """
    if to is None:
        raise ValueError(f"{source} is Parquet, and to=None. Name the new file or folder.")
    target = pathlib.Path(to)
    if target.exists():
        raise FileExistsError(f"{target} is there already. Remove it, or name another one.")
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not files:
        raise ValueError(f"There is no Parquet file in {source}. Give the folder that holds them.")
    counts: Counter[Any] = Counter()
    for file in files:
        for table in _changed(file, rules):
            counts.update(_rows_of(table, rules))
    part = target.with_name(f".{target.name}-{secrets.token_hex(4)}")
    try:
        for file in files:
            new = part / file.relative_to(source) if source.is_dir() else part
            new.parent.mkdir(parents=True, exist_ok=True)
            _write(new, _kept(_changed(file, rules), rules, counts, k))
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
        with contextlib.suppress(OSError):
            part.unlink()
    return report_of(counts, rules.quasi_identifiers, k)


def _pyarrow() -> Any:
    try:
        import pandas  # noqa: F401 (which pyarrow makes columns with)
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ImportError(
            f"Parquet tables need the package {error.name!r}, which is not installed. Install it "
            "with: pip install 'tfdist[privacy]'",
            name=error.name,
        ) from error
    return pyarrow


def _series(column: Any, name: str) -> Any:
    """Returns a column for pandas, in which whole numbers stay so beside missing values."""
    import pandas as pd

    pa = _pyarrow()
    whole = {
        getattr(pa, kind.lower())(): getattr(pd, f"{kind}Dtype")()
        for kind in ("Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64")
    }
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    return column.to_pandas(types_mapper=whole.get).rename(name)


def _changed(file: pathlib.Path, rules: Rules) -> Iterator[Any]:
    """Yields tables with the new columns; at first one without rows, so that each file has one."""
    pa = _pyarrow()
    with pa.parquet.ParquetFile(file) as opened:
        rules.refuse_others(opened.schema_arrow.names)
        yield _table(opened.schema_arrow.empty_table(), rules)
        for batch in opened.iter_batches(_BATCH_ROWS):
            yield _table(pa.Table.from_batches([batch]), rules)


def _table(table: Any, rules: Rules) -> Any:
    pa = _pyarrow()
    columns = {}
    for name in table.column_names:
        if name in rules.suppressed:
            continue
        column = columns[name] = table[name]
        if name in rules.identifiers:
            columns[name] = pa.array(rules.apply(_series(column, name)), pa.string())
        elif name in rules.bands:
            kind = column.type
            if pa.types.is_timestamp(kind):
                kind = pa.timestamp(kind.unit)  # without a zone, which would tell a place
            elif not isinstance(rules.bands[name], str) and pa.types.is_integer(kind):
                kind = pa.float64() if _has_fractions(rules.bands[name]) else kind
            new = pa.array(rules.apply(_series(column, name)), from_pandas=True)
            columns[name] = new.cast(kind)
    return pa.table(columns)


def _has_fractions(band: Any) -> bool:
    ends = band if isinstance(band, (list, tuple)) else [band]
    return any(isinstance(end, float) and not end.is_integer() for end in ends)


def _rows_of(table: Any, rules: Rules) -> list[tuple[Any, ...]]:
    names = rules.quasi_identifiers
    if not names:
        return [()] * table.num_rows
    import pandas as pd

    return rows_of(pd.concat([_series(table[name], name) for name in names], axis=1), names)


def _kept(tables: Iterator[Any], rules: Rules, counts: Counter[Any], k: int) -> Iterator[Any]:
    for table in tables:
        if k == 1:
            yield table
        else:
            is_kept = [counts[row] >= k for row in _rows_of(table, rules)]
            yield table.filter(_pyarrow().array(is_kept, _pyarrow().bool_()))


def _write(path: pathlib.Path, tables: Iterator[Any]) -> None:
    pyarrow = _pyarrow()
    first = next(tables)
    with pyarrow.parquet.ParquetWriter(path, first.schema) as writer:
        for table in tables:
            writer.write_table(table.cast(first.schema))
