"""Among how many alike does a row of a table stand?  k-anonymity.

Rows are alike if all quasi-identifiers have the same values: what somebody may know of a person
from elsewhere, such as age, place and date. A table is k-anonymous if no row is alike to fewer than
k, itself included (Sweeney 2002, "k-anonymity: a model for protecting privacy").
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any


@dataclasses.dataclass(frozen=True)
class Anonymity:
    """How alike the rows of a table are.

    Attributes:
        quasi_identifiers: The columns that were compared.
        rows: Rows that are left.
        left_out: Rows that were left out, since fewer than `k` were alike.
        classes: How many different rows there are by these columns.
        smallest: Rows of the smallest class: the table is this much anonymous; 0 without rows.
        sizes: Number of classes by the number of rows that each has.
    """

    quasi_identifiers: tuple[str, ...]
    rows: int
    left_out: int
    classes: int
    smallest: int
    sizes: dict[int, int]

    def __str__(self) -> str:
        classes = "class" if self.classes == 1 else "classes"
        return (
            f"{self.rows} rows in {self.classes} {classes} of "
            f"({', '.join(self.quasi_identifiers)}), the smallest of {self.smallest} rows: "
            f"{self.smallest}-anonymous; {self.left_out} rows are left out"
        )


def rows_of(frame: Any, columns: Sequence[str]) -> list[tuple[Any, ...]]:
    """Returns the values of each row in some columns of a `pandas.DataFrame`; missing is None."""
    if not columns:
        return [()] * len(frame)
    values = [frame[column].astype(object) for column in columns]
    return list(zip(*(v.where(v.notna(), None).tolist() for v in values), strict=True))


def k_anonymity(frame: Any, quasi_identifiers: Sequence[str]) -> Anonymity:
    """Says among how many alike the rows of a table stand.

    Args:
        frame: A `pandas.DataFrame`.
        quasi_identifiers: Its columns by which somebody could be recognized.

    Raises:
        ValueError: A column is not there, or none was named.
    """
    absent = [name for name in quasi_identifiers if name not in frame.columns]
    if absent or not quasi_identifiers:
        raise ValueError(
            f"quasi_identifiers={list(quasi_identifiers)} must be columns of the table, which has "
            f"{list(frame.columns)}."
        )
    return report_of(Counter(rows_of(frame, quasi_identifiers)), quasi_identifiers, k=1)


def report_of(counts: Mapping[Any, int], columns: Sequence[str], k: int) -> Anonymity:
    """Describes the classes of a table, of which those of fewer than `k` rows are left out.

    Args:
        counts: Rows by their values in the columns.
        columns: The quasi-identifiers.
        k: As in `pseudonymise`.
    """
    kept = [number for number in counts.values() if number >= k]
    return Anonymity(
        quasi_identifiers=tuple(columns),
        rows=sum(kept),
        left_out=sum(counts.values()) - sum(kept),
        classes=len(kept),
        smallest=min(kept, default=0),
        sizes=dict(sorted(Counter(kept).items())),
    )
