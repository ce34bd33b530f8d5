"""Does the picture of a run have its logs and its clients?"""

from __future__ import annotations

from typing import Any

import pytest

from tfdist.federated.record.outcome import Federated

_ROUNDS: list[dict[str, Any]] = [
    {"clients": ["a", "b"], "left": {}, "logs": {"loss": 2.0}},
    {"clients": ["a"], "left": {"b": "why"}, "logs": {"loss": 1.0}, "val_logs": {"val_loss": 3.0}},
]


def test_history_has_what_each_round_has():
    assert Federated(None, _ROUNDS).history == {"loss": [2.0, 1.0], "val_loss": [3.0]}


def test_plot_is_written(tmp_path):
    pytest.importorskip("matplotlib", reason="pip install 'tfdist[plot]'")
    Federated(None, _ROUNDS).plot(tmp_path / "rounds.png")
    assert (tmp_path / "rounds.png").read_bytes().startswith(b"\x89PNG")
