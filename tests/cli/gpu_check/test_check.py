"""Does the check run, find what is right right, and say that a CPU is no GPU?"""

from __future__ import annotations

import pytest
from parity import rotation

from tfdist.cli import commands
from tfdist.cli.gpu_check import check, part
from tfdist.cli.gpu_check.rows import BAD, FAILED, OK, Row
from tfdist.cli.health.trial import Trial

# One of these a commit. Together they are all parts; "oracles" runs with those that need it.
_TURNS = (
    ("card", "collectives", "overlap"), ("parity",), ("replicas",), ("workers",),
    ("CNN",), ("transformer",),
)  # fmt: skip


# 20 to 60 s, thrice that on a busy machine. That a part still runs after a change of what it calls
# shows here alone.
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_part_runs_on_the_cpu():
    assert {name for names in _TURNS for name in names} | {"oracles"} == set(part.PARTS)
    parts = _TURNS[rotation.turn(len(_TURNS))]
    shown: list[str] = []
    assert check.run("cpu", parts, show=shown.append), "\n".join(shown)
    text = "\n".join(shown)
    assert text.count("NO GPU: this ran on the CPU") == 2
    assert not [line for line in shown if line.startswith(BAD)]
    assert sum(line.startswith(("ok", "found")) for line in shown) >= 2, text


def _with_rows(monkeypatch, rows):
    asked = []

    def run(name, setting, *, timeout_secs):
        asked.append(name)
        return rows.get(name, [])

    monkeypatch.setattr(part, "run", run)
    return asked


def test_what_is_wrong_is_the_verdict(monkeypatch):
    wrong = Row(FAILED, "the sum", "ended by SIGSEGV")
    asked = _with_rows(monkeypatch, {"replicas": [Row(OK, "x", "y"), wrong]})
    shown: list[str] = []
    assert not check.run("gpu", ["replicas"], show=shown.append)
    assert asked == ["oracles", "replicas"]
    assert str(wrong) in shown
    assert "1 ok, 1 FAILED. The first: the sum." in shown[-1]
    assert "NO GPU" not in "".join(shown)


def test_parts_without_time_are_told(monkeypatch):
    asked = _with_rows(monkeypatch, {})
    shown: list[str] = []
    check.run("gpu", secs=0.0, show=shown.append)
    assert not asked
    assert "left out overlap: no time was left" in shown


def test_without_a_gpu_nothing_is_tried(monkeypatch, capsys):
    asked = _with_rows(monkeypatch, {})
    none = Trial(problem="TensorFlow does not start: no GPU is here", cure="rent one.")
    monkeypatch.setattr("tfdist.cli.health.trial.run_trial", lambda device, **_: none)
    assert commands.main(["doctor", "--gpu-check"]) == 1
    assert "no GPU is here" in capsys.readouterr().err
    assert not asked


@pytest.mark.parametrize(
    ("flags", "told"),
    [(["--device=tpu"], "must be gpu, or cpu"), (["--parts=speed"], "'speed' is none of card")],
)
def test_wrong_flags_are_told(flags, told, capsys):
    with pytest.raises(SystemExit):
        commands.main(["doctor", "--gpu-check", *flags])
    assert told in capsys.readouterr().err
