"""Are equal values equal afterwards, in all tables, and can nobody without the key tell which?"""

from __future__ import annotations

import hashlib
import hmac

import numpy as np
import pandas as pd
import pytest

from tfdist.privacy import pseudonyms

_KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv(pseudonyms.KEY, _KEY.hex())


def _of(values, name="patient", **kwargs) -> list:
    return pseudonyms.pseudonyms(pd.Series(values, name="id", **kwargs), name, _KEY).tolist()


def test_it_is_hmac_of_name_and_text():
    [found] = _of(["Grüße"])
    expected = hmac.new(_KEY, b"7:patient:" + "Grüße".encode(), hashlib.sha256).hexdigest()
    assert found == expected[:32]


def test_one_number_is_one_pseudonym_in_every_type():
    [found] = _of([7])
    for values in (["7"], [7.0], [np.int8(7)]):
        assert _of(values) == [found]
    assert _of([7, None])[0] == found  # a column of floats, in pandas
    assert _of([7, None], dtype="Int64")[0] == found
    assert _of([2**62 + 1], dtype="Int64") == _of([str(2**62 + 1)])


def test_missing_stays_missing():
    assert pd.isna(_of(["a", None])[1])
    assert pd.isna(_of([1, None], dtype="Int64")[1])


def test_two_names_have_nothing_in_common():
    assert _of([7], name="patient") != _of([7], name="doctor")
    assert _of(["7"], name="a:") != _of([":7"], name="a")
    assert _of(["b:7"], name="a") != _of(["7"], name="a:b")


@pytest.mark.parametrize("value", [1.5, True, float("inf"), b"x", (1,), 2.0**53])
def test_what_could_be_written_in_two_ways_is_refused(value):
    with pytest.raises(ValueError, match="neither a text nor a whole number that is exact"):
        _of(pd.Series([value], dtype=object))


@pytest.mark.parametrize("text", ["", "zz", "00" * 31])
def test_without_a_key_of_its_length(monkeypatch, text):
    monkeypatch.setenv(pseudonyms.KEY, text)
    with pytest.raises(ValueError, match="holds no key of 32 bytes.*openssl") as caught:
        pseudonyms.key_of_environment()
    assert not text or text not in str(caught.value)


def _banded(values, band, **kwargs) -> list:
    return pseudonyms.banded(pd.Series(values, name="a", **kwargs), band).tolist()


def test_widths_and_edges():
    assert _banded([37, 40, -1, 0], 10) == [30, 40, -10, 0]
    assert _banded([0.7, 1.2], 0.5) == [0.5, 1.0]
    assert _banded([37, 80, 18, 17, -3], (0, 18, 65)) == [18, 65, 18, 0, 0]
    assert _banded([1, 3], [2.5]) == [2.5, 2.5]
    for band in (10, (0, 18)):
        found = _banded([37, None], band)
        assert found[0] in (30, 18)
        assert np.isnan(found[1])
        assert _banded([37, None], band, dtype="Int64")[0] == found[0]


def test_dates():
    dates = pd.to_datetime(["2024-02-29 13:00", "2023-12-31 00:00", None])
    for band, first in {
        "year": "2024-01-01", "quarter": "2024-01-01", "month": "2024-02-01", "week": "2024-02-26",
    }.items():  # fmt: skip
        found = _banded(dates, band)
        assert found[0] == pd.Timestamp(first)
        assert pd.isna(found[2])
    abroad = _banded(dates.tz_localize("Asia/Tokyo"), "month")
    assert abroad[0] == pd.Timestamp("2024-02-01")


@pytest.mark.parametrize(
    ("values", "band", "told"),
    [
        ([1], "month", "is for dates, and one of year"),
        (pd.to_datetime(["2024-01-01"]), "hour", "is for dates, and one of year"),
        (["a"], 10, "is for numbers, and the column is of"),
        ([True], 10, "is for numbers"),
        (pd.to_datetime(["2024-01-01"]), 10, "is for numbers"),
        ([1], 0, "must be a width above 0"), ([1], -1, "must be a width"),
        ([1], float("nan"), "must be a width"), ([1], (2, 2), "or edges that increase"),
        ([1], (3, 2), "edges that increase"), ([1], (), "edges that increase"),
        ([1], None, "edges that increase"), ([1], True, "edges that increase"),
    ],
)  # fmt: skip
def test_bands_that_are_none(values, band, told):
    with pytest.raises(ValueError, match=told):
        _banded(values, band)
