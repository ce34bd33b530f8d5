"""Can no column pass unseen?"""

from __future__ import annotations

import pytest

from tfdist.privacy.rules import Rules


def _rules(**kwargs) -> Rules:
    given = {"identifiers": {}, "bands": {"age": 10}, "suppressed": ["name"], "kept": ["y"],
             "quasi_identifiers": ["age"]}  # fmt: skip
    return Rules(**{**given, **kwargs})


def test_each_once():
    _rules().refuse_others(["y", "name", "age"])


@pytest.mark.parametrize(
    ("kwargs", "found", "told"),
    [
        ({}, ["age", "name", "y", "new"], "named in no argument: new. Name each of"),
        ({"kept": ["y", "age"]}, ["age", "name", "y"], "in two: age"),
        ({}, ["age", "y"], "and not there: name"),
        ({"quasi_identifiers": ["place"]}, ["age", "name", "y"], "and not there: place"),
        ({"quasi_identifiers": ["name"]}, ["age", "name", "y"], "as quasi-identifiers: name"),
        ({}, ["age", "name", "y", "y"], "twice in the table: y"),
    ],
)
def test_refused(kwargs, found, told):
    with pytest.raises(ValueError, match=told):
        _rules(**kwargs).refuse_others(found)
