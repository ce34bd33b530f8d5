"""Are the terminal and the trackers told of each round?"""

from __future__ import annotations

import pytest

from tfdist import tracking
from tfdist.federated.record.telling import Teller

_TOLD = {
    "round": 1, "clients": ["a", "b"], "left": {"c": "why"}, "logs": {"loss": 0.25},
    "val_logs": {"val_loss": 0.5},
}  # fmt: skip


def test_a_round_is_told_to_all(tmp_path, capsys):
    lines = tracking.JsonLines(tmp_path / "run.jsonl")
    teller = Teller([lines], rounds=3, verbose="auto")

    def stopped() -> None:
        with teller.run({"begins_at_step": 1}):
            teller.round(_TOLD)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stopped()
    assert capsys.readouterr().out == (
        "Round 2/3: 2 clients, 1 left - loss: 0.25 - val_loss: 0.5\n"
    )
    start, log, finish = tracking.JsonLines.read(lines.path)
    assert start["config"] == {"begins_at_step": 1}
    assert (log["step"], finish["status"]) == (2, "interrupted")
    assert log["values"] == {"loss": 0.25, "val_loss": 0.5, "clients": 2.0, "left": 1.0}


def test_silence(capsys):
    Teller(None, rounds=3, verbose=0).round(_TOLD)
    assert capsys.readouterr().out == ""
