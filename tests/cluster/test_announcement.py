"""Are the facts of a worker gathered without importing anything, and compared by name?"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import platform
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tfdist
from tfdist.cluster.announcement import (
    Announcement,
    find_differences,
    gather_facts,
    parse_announcement,
)

GOOD = {"rank": 0, "size": 2, "address": "a:1", "facts": {}}


def test_announcement_round_trip():
    text = json.dumps({**GOOD, "facts": {"keras": "3"}})
    assert parse_announcement(text) == Announcement(0, 2, "a:1", {"keras": "3"})


@pytest.mark.parametrize(
    ("changes", "cause"),
    [
        ({"rank": -1}, "rank and size must be whole numbers"),
        ({"rank": True}, "rank and size must be whole numbers"),
        ({"rank": "0"}, "rank and size must be whole numbers"),
        ({"size": None}, "rank and size must be whole numbers"),
        ({"size": 1e3}, "rank and size must be whole numbers"),
        ({"size": 10**30}, "rank and size must be whole numbers"),
        ({"address": "a"}, "'a' has no port"),
        ({"address": None}, "None is a null"),
        ({"facts": []}, "facts must be an object, not list"),
    ],
)
def test_broken_announcements(changes, cause):
    with pytest.raises(ValueError, match=cause):
        parse_announcement(json.dumps({**GOOD, **changes}))


_ANY = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just({})


@given(st.text() | st.fixed_dictionaries({}, optional=dict.fromkeys(GOOD, _ANY)).map(json.dumps))
def test_any_text_is_an_announcement_or_refused(text):
    with contextlib.suppress(ValueError):  # any other error is a failure
        assert parse_announcement(text).rank >= 0


def _announce(rank, **facts):
    return Announcement(rank, 3, f"a:{rank + 1}", facts)


@pytest.mark.parametrize(
    ("announcements", "expected"),
    [
        ([_announce(0, keras="3"), _announce(1, keras="3")], ""),
        ([_announce(0), _announce(1)], ""),
        (
            [_announce(0, keras="3"), _announce(1, keras="4"), _announce(2, keras="3")],
            "  keras: '3' on workers 0, 2; '4' on worker 1",
        ),
        (
            [_announce(0, flags=["--a"]), _announce(1, flags=["--b"])],
            "  flags: ['--a'] on worker 0; ['--b'] on worker 1",
        ),
        (
            [_announce(0, devices=2), _announce(1)],
            "  devices: 2 on worker 0; 'not told' on worker 1",
        ),
        (
            [_announce(0, a=1, b=1), _announce(1, a=2, b=2)],
            "  a: 1 on worker 0; 2 on worker 1\n  b: 1 on worker 0; 2 on worker 1",
        ),
    ],
)
def test_differences(announcements, expected):
    assert find_differences(announcements) == expected


def _installed(*names):
    for name in names:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return "not installed"


def test_facts_agree_with_the_packages_metadata(tmp_path):
    script = tmp_path / "script.py"
    script.write_text("pass")
    facts = gather_facts(script=str(script), flags=["--a=1"])
    assert facts["python"] == platform.python_version()
    assert facts["tfdist"] == tfdist.__version__
    assert facts["keras"] == _installed("keras")
    assert facts["tensorflow"] == _installed("tensorflow", "tensorflow-cpu", "tensorflow-tpu")
    assert facts["flags"] == ["--a=1"]
    assert facts == gather_facts(script=str(script), flags=["--a=1"])
    script.write_text("pass ")
    assert facts["script"] != gather_facts(script=str(script))["script"]


def test_missing_packages_are_told(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "path", ["", str(tmp_path), str(tmp_path / "missing")])
    assert gather_facts()["tensorflow"] == "not installed"
    (tmp_path / "tensorflow_cpu-2.21.0.dist-info").mkdir()
    (tmp_path / "tensorflow_estimator-1.0.dist-info").mkdir()
    assert gather_facts()["tensorflow"] == "2.21.0"


def test_long_flags_are_told_by_their_hash():
    flags = ["x" * 20_000]
    assert gather_facts(flags=flags)["flags"].startswith("sha256:")
    assert gather_facts(flags=flags)["flags"] != gather_facts(flags=["y" * 20_000])["flags"]
