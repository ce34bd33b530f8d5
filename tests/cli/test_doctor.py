"""Does the doctor judge whether training can start, here and from a report?"""

from __future__ import annotations

import json

import pytest

from tfdist.cli import commands, doctor
from tfdist.cli.health.trial import Trial


@pytest.fixture
def healthy(monkeypatch):
    """This host, with a trial that went well."""
    monkeypatch.delenv("TF_CONFIG", raising=False)
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    well = Trial(chosen=("OneDeviceStrategy: replicas=1",))
    monkeypatch.setattr(doctor.trial, "run_trial", lambda device, *, timeout_secs: well)


def test_it_says_that_training_can_start(healthy, capsys):
    assert commands.main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert "OneDeviceStrategy: replicas=1" in shown
    assert shown.endswith("Training can start.\n")


def test_a_rule_that_stops_is_told_and_travels_in_a_report(healthy, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("KERAS_BACKEND", "jax")
    assert commands.main(["doctor", "--json"]) == 1
    report = capsys.readouterr().out
    found = json.loads(report)
    assert not found["can_start"]
    assert "keras-backend" in [finding["name"] for finding in found["findings"]]
    assert found["trial"]["chosen"] == ["OneDeviceStrategy: replicas=1"]
    monkeypatch.delenv("KERAS_BACKEND")
    path = tmp_path / "report.json"
    path.write_text(report)
    assert commands.main(["doctor", f"--from={path}"]) == 1
    shown = capsys.readouterr().out
    assert "STOPS [keras-backend] KERAS_BACKEND='jax'" in shown
    assert "Training CANNOT start" in shown


def test_what_only_breaks_or_slows_does_not_stop(healthy, monkeypatch, capsys):
    monkeypatch.setenv("TF_USE_LEGACY_KERAS", "1")
    assert commands.main(["doctor"]) == 0
    assert "BREAKS [legacy-keras]" in capsys.readouterr().out


def test_a_trial_that_fails_stops(healthy, monkeypatch, capsys):
    bad = Trial(problem="TensorFlow ends its process by SIGILL: x", cure="another machine")
    monkeypatch.setattr(doctor.trial, "run_trial", lambda device, *, timeout_secs: bad)
    assert commands.main(["doctor"]) == 1
    assert "ERROR: TensorFlow ends its process by SIGILL" in capsys.readouterr().out
    assert commands.main(["doctor", "--notrial"]) == 0


def test_an_environment_that_contradicts_itself_stops(healthy, monkeypatch, capsys):
    monkeypatch.setenv("TF_CONFIG", "{'cluster'}")
    assert commands.main(["doctor"]) == 1
    assert "ERROR: TF_CONFIG is no valid JSON" in capsys.readouterr().out


def test_facts_alone_are_a_report_too(tmp_path, capsys):
    assert commands.main(["env", "--json"]) == 0
    path = tmp_path / "env.json"
    path.write_text(capsys.readouterr().out)
    commands.main(["doctor", f"--from={path}"])
    assert "What would train:\nnot tried" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "told"),
    [("--from=/no/such", "No such file"), ("--from={empty}", "holds no report"),
     ("extra", "'extra' is no flag")],
)  # fmt: skip
def test_what_cannot_be_read_is_told(flag, told, tmp_path, capsys):
    (tmp_path / "empty").write_text("{}")
    with pytest.raises(SystemExit) as ended:
        commands.main(["doctor", flag.format(empty=tmp_path / "empty")])
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


