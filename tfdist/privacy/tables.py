"""How is a table made such that others can train on it?  Frames of pandas, and Parquet files.

Synopsis:

    >>> import os, pandas
    >>> os.environ["TFDIST_PSEUDONYM_KEY"] = "00" * 32  # one of your own: openssl rand -hex 32
    >>> frame = pandas.DataFrame({"patient": [7, 8, 7], "age": [31, 38, 32], "name": list("abc")})
    >>> new, report = pseudonymise(
    ...     frame, identifiers=["patient"], bands={"age": 10}, suppress=["name"], k=3
    ... )
    >>> new["age"].tolist(), bool(new["patient"][0] == new["patient"][2])
    ([30, 30, 30], True)
    >>> print(report)
    3 rows in 1 class of (age), the smallest of 3 rows: 3-anonymous; 0 rows are left out
    >>> del os.environ["TFDIST_PSEUDONYM_KEY"]

It is pseudonymisation, with a measure of what is left: no anonymity, and no differential privacy.
"""

from __future__ import annotations

import os
import pathlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tfdist.privacy import parquet_tables
from tfdist.privacy.anonymity import report_of, rows_of
from tfdist.privacy.rules import Rules


def pseudonymise(
    data: Any,
    to: str | os.PathLike[str] | None = None,
    *,
    identifiers: Sequence[str] | Mapping[str, str] = (),
    bands: Mapping[str, Any] | None = None,
    suppress: Sequence[str] = (),
    keep: Sequence[str] = (),
    k: int = 1,
    quasi_identifiers: Sequence[str] | None = None,
) -> Any:
    """Replaces what names people in a table, and says among how many alike they are left.

    Every column is named in one of the arguments: one that is not would pass unseen. Texts and
    whole numbers of `identifiers` become HMAC-SHA256 under the key that TFDIST_PSEUDONYM_KEY holds,
    cut to 128 bits: equal values equally, in all tables that are made with the same key.

    Args:
        data: A `pandas.DataFrame`; or the path of a Parquet file, or of a folder of them.
        to: For Parquet, the new file or the new folder; it must not be there yet.
        identifiers: Columns that become pseudonyms; or the name that each has in all tables, by
            column, where tables call it differently: {"pat_id": "patient"}.
        bands: What numbers and dates become, by column: a width (10 makes 37 to 30), the edges of
            bands in order ((0, 18, 65) makes 37 to 18, and 80 to 65; what is below the first is
            counted to it), or "year", "quarter", "month" or "week", its first day.
        suppress: Columns that are left out.
        keep: Columns that stay as they are.
        k: Rows are left out that have fewer than this many, themselves included, with the same
            values in all `quasi_identifiers`.
        quasi_identifiers: The columns by which somebody could be recognized who knows them from
            elsewhere, as they are in the result; by default those of `bands`.

    Returns:
        The new frame and its `Anonymity`; for Parquet the `Anonymity` alone.

    Raises:
        ValueError: A column is named twice, not at all, or not there; a value has no pseudonym or
            band; or there is no key.
        FileExistsError: `to` is there already.
        ImportError: pandas, or for Parquet pyarrow, is not installed.
    """
    names = dict(identifiers) if isinstance(identifiers, Mapping) else {c: c for c in identifiers}
    in_bands = dict(bands or {})
    quasi = list(in_bands if quasi_identifiers is None else quasi_identifiers)
    if type(k) is not int or k < 1:
        raise ValueError(f"k={k!r} must be a whole number of rows, from 1.")
    if k > 1 and not quasi:
        raise ValueError(f"k={k} counts rows that are alike. Say in what, by quasi_identifiers.")
    rules = Rules(names, in_bands, list(suppress), list(keep), quasi)
    if isinstance(data, (str, os.PathLike)):
        return parquet_tables.rewritten(pathlib.Path(data), to, rules, k)
    if to is not None:
        raise ValueError(f"to={os.fspath(to)!r} is for Parquet, and data is a frame. Leave it out.")
    rules.refuse_others(list(data.columns))
    new = data.drop(columns=rules.suppressed)
    for column in rules.changed:
        new[column] = rules.apply(data[column])
    rows = rows_of(new, quasi)
    counts = Counter(rows)
    kept = new[[counts[row] >= k for row in rows]].reset_index(drop=True) if k > 1 else new
    return kept, report_of(counts, quasi, k)
