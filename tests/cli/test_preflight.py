"""Does the command say by its exit code whether a model trains on a TPU?

With a stand-in for the compiler; tests/tpu runs the real one.
"""

from __future__ import annotations

import types

import pytest

from tfdist import tpu
from tfdist.cli import looked_at, preflight


@pytest.fixture
def flights(monkeypatch):
    """Records what is asked of the compiler, and answers."""
    asked = {}

    def fly(model, batch, **options):
        asked.update(options, model=model, batch=batch)
        if options["topology"] == "v9":
            raise ValueError("topology='v9' is none; give one.")
        return types.SimpleNamespace(compiles=True, fits=not options["fast"])

    monkeypatch.setattr(tpu, "preflight", fly)
    monkeypatch.setattr(tpu, "lint", lambda model, batch: ["a finding"])
    monkeypatch.setattr(looked_at, "network", lambda: "a model")
    return asked


def test_it_compiles_and_fits(flights, capsys):
    assert preflight.main(["--batch_size=8", "--topology=v6e:2x2"]) == 0
    assert flights["model"] == "a model"
    assert (flights["batch_size"], flights["topology"]) == (8, "v6e:2x2")
    assert "a finding" in capsys.readouterr().out


def test_it_does_not_fit(flights, capsys):
    assert preflight.main(["--fast", "--nolint"]) == 1
    assert flights["batch_size"] == 1024
    assert "a finding" not in capsys.readouterr().out


def test_what_cannot_be_is_told(flights, capsys):
    assert preflight.main(["--topology=v9"]) == 2
    assert "tfdist preflight: topology='v9' is none" in capsys.readouterr().err
