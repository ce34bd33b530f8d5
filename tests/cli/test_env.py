"""Can what is known of a host be pasted into a report?"""

from __future__ import annotations

import json
import sys

from tfdist.cli import commands, env
from tfdist.cli.health.facts import Facts


def test_it_is_shown(capsys):
    assert commands.main(["env"]) == 0
    shown = capsys.readouterr().out
    assert f"at {sys.executable}" in shown
    assert "\n  keras 3." in shown


def test_it_is_written_as_json(capsys):
    assert commands.main(["env", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["python"][1] == sys.executable


def test_a_container_and_no_limits():
    lines = env.describe(Facts(cores=(64, 4.0), limits={"open files": -1}))
    assert "cores: 64, of which 4 at once" in lines
    assert "limits: open files unlimited" in lines
    assert "packages:" in lines
