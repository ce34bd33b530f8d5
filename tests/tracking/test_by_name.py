"""Is every name a tracker, at the place that it asks for, and is everything else refused?"""

from __future__ import annotations

import pytest

from tfdist import tracking
from tfdist.tracking import by_name


def test_names_become_trackers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own = tracking.JsonLines("own.jsonl")
    lines, placed, kept = by_name.made(["json", "json:a:b.jsonl", own])
    assert lines.path == tmp_path / "tracking.jsonl"
    assert placed.path == tmp_path / "a:b.jsonl"
    assert kept is own
    assert isinstance(by_name.made(["tensorboard:board"])[0], tracking.TensorBoard)
    assert by_name.made(None) == []


@pytest.mark.parametrize("name", by_name.NAMES)
def test_every_name_makes_one(name):
    pytest.importorskip({"mlflow": "mlflow", "wandb": "wandb"}.get(name, "json"))
    assert all(isinstance(one, tracking.Tracker) for one in by_name.made([name, f"{name}:place"]))


@pytest.mark.parametrize(
    ("trackers", "text"),
    [
        ("json", "trackers='json' is not a list"),
        (["csv"], "names 'csv', which is none of json, mlflow, tensorboard, wandb"),
        ([object()], "is no object with the methods start, log and finish"),
        ([tracking.JsonLines], "is no object with the methods start, log and finish"),
    ],
)
def test_others_are_refused(trackers, text):
    with pytest.raises(ValueError, match=text):
        by_name.made(trackers)
