"""Is a tracker whatever has three methods, and is a missing package named with its extra?"""

from __future__ import annotations

import pytest

from tfdist import tracking
from tfdist.tracking import tracker


class Own:
    def start(self, config):
        pass

    def log(self, values, step):
        pass

    def finish(self, status):
        pass


def test_three_methods_make_a_tracker():
    assert isinstance(Own(), tracking.Tracker)
    assert not isinstance(object(), tracking.Tracker)


def test_nested_configs_become_flat():
    assert tracker.flat({"a": {"b": {"c": 1}, "d": [2]}, "e": None}) == {
        "a.b.c": 1, "a.d": [2], "e": None,
    }  # fmt: skip


def test_a_missing_package_is_named_with_its_extra():
    with pytest.raises(ImportError, match=r"MLflow needs .*'no_such_package'.*'tfdist\[mlflow\]'"):
        tracker.require("no_such_package", tracker="MLflow", extra="mlflow")


def test_an_unknown_name_is_told():
    with pytest.raises(AttributeError, match="no attribute 'CSV'; it has .*JsonLines"):
        _ = tracking.CSV
