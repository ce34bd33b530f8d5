"""Is each line JSON that strict readers take, also after a kill in the middle of one?"""

from __future__ import annotations

import json

import pytest

from tfdist.tracking import JsonLines


def _refuse(text):
    pytest.fail(f"{text} is no JSON")


def test_every_line_is_strict_json(tmp_path):
    tracker = JsonLines(tmp_path / "new" / "run.jsonl")
    tracker.start({"replicas": 2, "nested": {"of": (1, {2})}})
    tracker.log({"loss": float("nan"), "mae": float("-inf"), "text": "a\nb"}, step=3)
    tracker.finish("finished")
    lines = tracker.path.read_text().splitlines()
    start, log, finish = (json.loads(line, parse_constant=_refuse) for line in lines)
    assert start["config"] == {"replicas": 2, "nested": {"of": [1, "{2}"]}}
    assert log["step"] == 3
    assert log["values"]["text"] == "a\nb"
    assert float(log["values"]["mae"]) == float("-inf")
    assert str(float(log["values"]["loss"])) == "nan"
    assert finish["status"] == "finished"
    assert start["time"] <= finish["time"]


def test_half_a_line_spoils_no_other(tmp_path):
    path = tmp_path / "run.jsonl"
    JsonLines(path).log({"loss": 1.0}, step=1)
    with open(path, "a") as file:
        file.write('{"event": "lo')
    JsonLines(path).log({"loss": 2.0}, step=2)
    assert [line["step"] for line in JsonLines.read(path)] == [1, 2]
