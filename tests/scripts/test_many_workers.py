"""Does what many workers cost the chief grow no faster than they?"""

from __future__ import annotations

import importlib.util
import pathlib
import sys

import pytest

_PATH = pathlib.Path(__file__).parents[2] / "scripts" / "many_workers.py"


@pytest.fixture(scope="module")
def many_workers():
    spec = importlib.util.spec_from_file_location("many_workers", _PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules["many_workers"] = module  # where its dataclasses look for their types
    spec.loader.exec_module(module)
    module._BEATS_SECS = 1.0
    return module


# 1 to 4 s each, of processes that play the workers. That each of many workers is asked more than
# once a beat shows in no other test.
@pytest.mark.parametrize("suite", ["roll_call", "heartbeat", "ledger"])
def test_cost_grows_at_most_as_the_workers(many_workers, suite, capsys):
    few, many = many_workers.measure(suite, [16, 64])
    assert many_workers.growth([few, many], lambda load: load.messages) < 1.1
    if many.messages:  # the least that can be: each is told once, and tells once
        assert many.messages <= 4 * 64
    assert many.cpu_secs < 0.5
    assert "64 workers:" in capsys.readouterr().out


# 5 s where nothing else has imported TensorFlow.
def test_an_agreement_names_the_one_that_differs(many_workers):
    assert many_workers.agreement(64).cpu_secs < 0.1


def test_all_peers_are_looked_at_a_few_times_a_second(many_workers, monkeypatch):
    """However many lines come: else a thousand peers are looked at a thousand times."""
    looked, known = [], many_workers.Heart._losses
    monkeypatch.setattr(
        many_workers.Heart, "_losses", lambda own, *, now: looked.append(now) or known(own, now=now)
    )
    many_workers.beats(64)
    secs = looked[-1] - looked[0]
    assert len(looked) < 8 * secs + 8


def test_growth_is_a_power(many_workers):
    loads = [many_workers.Load(size, 1e-3 * size**2) for size in (10, 1000)]
    assert many_workers.growth(loads, lambda load: load.cpu_secs) == pytest.approx(2.0)
    assert many_workers.growth(loads, lambda load: load.workers) == pytest.approx(1.0)
