"""What stands in the place of a name, a number and a date?  A keyed hash, and a band."""

from __future__ import annotations

import hashlib
import hmac
import numbers
import os
from typing import Any

KEY = "TFDIST_PSEUDONYM_KEY"

_FEWEST_KEY_BYTES = 32
_DIGITS = 32  # 128 bits, so that two people do not get one pseudonym by chance
_PERIODS = {"year": "Y", "quarter": "Q", "month": "M", "week": "W"}


def key_of_environment() -> bytes:
    """Returns the key of pseudonyms.

    Raises:
        ValueError: There is none, or it is too short; it is not shown.
    """
    try:
        key = bytes.fromhex(os.environ.get(KEY, ""))
    except ValueError:
        key = b""
    if len(key) < _FEWEST_KEY_BYTES:
        raise ValueError(
            f"{KEY} holds no key of {_FEWEST_KEY_BYTES} bytes or more in hexadecimal, without "
            "which pseudonyms could be worked out by trying. Make one by: openssl rand -hex 32"
        )
    return key


def pseudonyms(column: Any, name: str, key: bytes) -> Any:
    """Returns a column of HMAC-SHA256 (RFC 2104), the first 128 bits in hexadecimal.

    Args:
        column: A `pandas.Series` of texts or whole numbers; what is missing stays so.
        name: Of what they are: equal values of two names have nothing in common.
        key: As `key_of_environment` returns.

    Raises:
        ValueError: It holds something else.
    """
    known: dict[Any, str] = {}

    def pseudonym(value: Any) -> str:
        text = _text(value, column.name)
        if text not in known:
            message = f"{len(name)}:{name}:{text}".encode()  # of no other name and text
            known[text] = hmac.new(key, message, hashlib.sha256).hexdigest()[:_DIGITS]
        return known[text]

    return column.astype(object).map(pseudonym, na_action="ignore")


def _text(value: Any, column: Any) -> str:
    """Returns one text for 7, 7.0 and "7": a column with missing values has floats in pandas."""
    if isinstance(value, str):
        return value
    is_whole = False
    if not isinstance(value, bool):
        try:
            is_exact = isinstance(value, numbers.Integral) or abs(value) < 2**53
            is_whole = is_exact and int(value) == value
        except (TypeError, ValueError, OverflowError):
            is_whole = False
    if not is_whole:
        raise ValueError(
            f"The column {column!r} holds a {type(value).__name__} that is neither a text nor a "
            "whole number that is exact. Make it a text first, the same one in all tables."
        )
    return str(int(value))


def banded(column: Any, band: Any) -> Any:
    """Returns the lower end of each value's band; what is missing stays so.

    Args:
        column: A `pandas.Series` of numbers or dates.
        band: As in `pseudonymise`.

    Raises:
        ValueError: The band is none, or does not fit the column.
    """
    import numpy as np
    import pandas as pd

    told = f"bands={{{column.name!r}: {band!r}}}"
    if isinstance(band, str):
        if band not in _PERIODS or not pd.api.types.is_datetime64_any_dtype(column):
            raise ValueError(
                f"{told} is for dates, and one of {', '.join(_PERIODS)}; the column is of "
                f"{column.dtype}. Convert it by pandas.to_datetime, or give a width or edges."
            )
        return column.dt.tz_localize(None).dt.to_period(_PERIODS[band]).dt.start_time
    if not pd.api.types.is_numeric_dtype(column) or pd.api.types.is_bool_dtype(column):
        raise ValueError(
            f"{told} is for numbers, and the column is of {column.dtype}. Convert it, or leave it "
            "out by suppress."
        )
    if isinstance(band, (int, float)) and not isinstance(band, bool) and 0 < band < float("inf"):
        return column // band * band
    edges = list(band) if isinstance(band, (list, tuple)) else []
    if not edges or any(not a < b for a, b in zip(edges, edges[1:], strict=False)):
        raise ValueError(f"{told} must be a width above 0, or edges that increase.")
    values = column.to_numpy(float, na_value=np.nan)
    at = np.searchsorted(edges, values, side="right") - 1
    lower = pd.Series(np.asarray(edges)[at.clip(0)], index=column.index)
    return lower.where(column.notna())
