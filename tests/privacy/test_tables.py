"""Is a frame what was asked for, with no row alone and nothing else left in it?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tfdist.privacy import pseudonymise, pseudonyms


@pytest.fixture(autouse=True)
def key(monkeypatch) -> None:
    monkeypatch.setenv(pseudonyms.KEY, "ab" * 32)


def _people(rows: int = 200) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "patient": draw.integers(1000, 1040, rows),
            "age": draw.integers(0, 99, rows),
            "born": pd.Timestamp("1950-01-01") + pd.to_timedelta(draw.integers(0, 9999, rows), "D"),
            "sex": draw.choice(["f", "m"], rows),
            "name": [f"name {number}" for number in range(rows)],
            "y": draw.normal(size=rows),
        }
    )


_RULES = {
    "identifiers": ["patient"], "bands": {"age": 20, "born": "year"}, "suppress": ["name"],
    "keep": ["y", "sex"],
}  # fmt: skip


def test_a_frame():
    frame = _people()
    before = frame.copy()
    new, report = pseudonymise(frame, **_RULES)
    pd.testing.assert_frame_equal(frame, before)
    assert list(new.columns) == ["patient", "age", "born", "sex", "y"]
    assert (new["age"] == frame["age"] // 20 * 20).all()
    assert (new["born"].dt.day_of_year == 1).all()
    assert (new["y"] == frame["y"]).all()
    groups = frame["patient"].groupby(new["patient"]).nunique()
    assert len(groups) == frame["patient"].nunique()  # one pseudonym each, and no two the same
    assert (groups == 1).all()
    assert report.quasi_identifiers == ("age", "born")
    assert (report.rows, report.left_out) == (200, 0)


def test_rows_that_are_alone_are_left_out():
    frame = _people()
    quasi = ["age", "sex"]
    bands = [(age // 20 * 20, sex) for age, sex in zip(frame["age"], frame["sex"], strict=True)]
    k = sorted(map(bands.count, bands))[100]  # which a class has exactly
    new, report = pseudonymise(frame, **_RULES, k=k, quasi_identifiers=quasi)
    expected = [y for y, row in zip(frame["y"], bands, strict=True) if bands.count(row) >= k]
    assert 0 < len(expected) < 200
    assert new["y"].tolist() == expected
    assert (report.rows, report.left_out) == (len(expected), 200 - len(expected))
    assert report.smallest == min(bands.count(row) for row in bands if bands.count(row) >= k)
    assert new.groupby(quasi).size().min() == report.smallest


def test_tables_that_call_it_otherwise_join():
    one, _ = pseudonymise(_people(), **_RULES)
    other, _ = pseudonymise(
        pd.DataFrame({"pat_id": ["1001", "1002"]}), identifiers={"pat_id": "patient"}
    )
    assert set(other["pat_id"]) <= set(one["patient"])


def test_no_rows():
    new, report = pseudonymise(_people(0), **_RULES, k=3)
    assert (len(new), report.rows, report.smallest) == (0, 0, 0)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"k": 0}, "k=0 must be a whole number of rows"),
        ({"k": 2, "bands": {}, "keep": ["y", "sex", "age", "born"]}, "Say in what, by quasi_"),
        ({"to": "somewhere"}, "to='somewhere' is for Parquet"),
        ({"keep": ["y"]}, "named in no argument: sex"),
    ],
)
def test_refused(options, told):
    with pytest.raises(ValueError, match=told):
        pseudonymise(_people(), **{**_RULES, **options})


def test_without_a_key_nothing_is_done(monkeypatch):
    monkeypatch.delenv(pseudonyms.KEY)
    with pytest.raises(ValueError, match="TFDIST_PSEUDONYM_KEY holds no key"):
        pseudonymise(_people(), **_RULES)
    pseudonymise(_people(), **{**_RULES, "identifiers": [], "suppress": ["name", "patient"]})
