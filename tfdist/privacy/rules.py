"""What happens to which column of a table?  Each is named once, or the table is refused."""

from __future__ import annotations

import dataclasses
import functools
from collections import Counter
from typing import Any

from tfdist.privacy.pseudonyms import banded, key_of_environment, pseudonyms


@dataclasses.dataclass(frozen=True)
class Rules:
    """What happens to the columns.

    Attributes:
        identifiers: What the values of a column name, by column.
        bands: The band of a column, by column.
        suppressed: Columns that are left out.
        kept: Columns that stay as they are.
        quasi_identifiers: Columns in which rows are compared.
    """

    identifiers: dict[str, str]
    bands: dict[str, Any]
    suppressed: list[str]
    kept: list[str]
    quasi_identifiers: list[str]

    @property
    def changed(self) -> list[str]:
        """The columns whose values are replaced."""
        return [*self.identifiers, *self.bands]

    @functools.cached_property
    def _key(self) -> bytes:
        return key_of_environment()

    def apply(self, column: Any) -> Any:
        """Returns the values that stand in the place of a column's, a `pandas.Series`."""
        if column.name in self.identifiers:
            return pseudonyms(column, self.identifiers[column.name], self._key)
        return banded(column, self.bands[column.name])

    def refuse_others(self, found: list[str]) -> None:
        """Raises a ValueError unless each column that a table has is named once.

        Args:
            found: The columns of the table.
        """
        if self.identifiers:
            self._key  # noqa: B018 (before anything is read)
        named = [*self.changed, *self.suppressed, *self.kept]
        quasi = self.quasi_identifiers
        wrong = {
            "in no argument": [name for name in found if name not in named],
            "in two": sorted(name for name, times in Counter(named).items() if times > 1),
            "and not there": sorted({*named, *quasi} - set(found)),
            "as left out and as quasi-identifiers": sorted(set(quasi) & set(self.suppressed)),
            "twice in the table": sorted(n for n, times in Counter(found).items() if times > 1),
        }
        told = "; ".join(f"{how}: {', '.join(map(str, c))}" for how, c in wrong.items() if c)
        if told:
            raise ValueError(
                f"Columns are named {told}. Name each of {', '.join(map(str, found))} once, in "
                "identifiers, bands, suppress or keep."
            )
