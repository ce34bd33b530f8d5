"""Are the commands found, and wrong ones named?"""

from __future__ import annotations

import importlib

import pytest

from tfdist.cli import commands


@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_each_command_has_help(name, capsys):
    assert callable(importlib.import_module(commands.COMMANDS[name][0]).main)
    with pytest.raises(SystemExit) as ended:
        commands.main([name, "--help"])
    assert ended.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_all_are_listed(capsys):
    assert commands.main(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(name in shown for name in commands.COMMANDS)


@pytest.mark.parametrize(("given", "hint"), [("rum", "Did you mean 'run'"), ("xyz", "There are:")])
def test_a_wrong_name_is_told(given, hint, capsys):
    assert commands.main([given]) == 2
    assert f"no command {given!r}. {hint}" in capsys.readouterr().err
