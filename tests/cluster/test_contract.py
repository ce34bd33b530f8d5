"""tests of tfdist/cluster/contract.py"""

from __future__ import annotations

import pytest

from tfdist.cluster import contract


def test_variable_names_are_documented_once():
    names = [value for name, value in vars(contract).items() if name.isupper()]
    own = [value for value in names if isinstance(value, str) and value.startswith("TFDIST_")]
    assert len(own) == len(set(own)) >= 10


@pytest.mark.parametrize("value", [1, 0.5, "60", "1e3", 1_000_000, " 2 "])
def test_seconds(value):
    assert contract.parse_secs(value, "secs") == float(value)


@pytest.mark.parametrize(
    "value", [0, -1, "inf", "nan", "1e10", float("inf"), 10**400, "", "soon", None, [1], b"1"]
)
def test_seconds_that_cannot_be(value):
    with pytest.raises(ValueError, match="^secs=.* must be a number of seconds above 0, up to"):
        contract.parse_secs(value, "secs")
