"""tests of tfdist/cluster/contract.py"""

from __future__ import annotations

from tfdist.cluster import contract


def test_variable_names_are_documented_once():
    names = [value for name, value in vars(contract).items() if name.isupper()]
    own = [value for value in names if isinstance(value, str) and value.startswith("TFDIST_")]
    assert len(own) == len(set(own)) >= 10
