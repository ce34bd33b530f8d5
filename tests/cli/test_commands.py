"""Are the commands found, and wrong ones named?"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys

import launching
import pytest

import tfdist
from tfdist.cli import commands


@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_each_command_has_help(name, capsys):
    assert callable(importlib.import_module(commands.COMMANDS[name][0]).main)
    shown = []
    for asked in ([name, "--help"], ["help", name]):
        with pytest.raises(SystemExit) as ended:
            commands.main(asked)
        assert ended.value.code == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1]
    assert f"usage: tfdist {name} " in shown[0]
    assert "Exit code" in shown[0] or "exit code" in shown[0]


def test_all_are_listed(capsys):
    assert commands.main(["--help"]) == commands.main(["help"]) == commands.main([]) == 0
    shown = capsys.readouterr().out
    assert all(shown.count(f"\n  {name} ") == 3 for name in commands.COMMANDS)
    assert shown.count("  75       told to stop") == 3


def test_version(capsys):
    assert commands.main(["--version"]) == 0
    assert capsys.readouterr().out == f"tfdist {tfdist.__version__}\n"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("rum", "no command 'rum'. Did you mean 'run'"),
        ("xyz", "no command 'xyz'. There are:"),
        ("--workers=2", "flags come after the command"),
        (__file__, f"is a program. To run it distributed: tfdist run {__file__}"),
    ],
)
def test_a_wrong_name_is_told(given, hint, capsys):
    assert commands.main([given]) == 2
    assert hint in capsys.readouterr().err


@pytest.mark.parametrize("name", list(commands.COMMANDS))
def test_a_wrong_flag_is_told_with_what_was_meant(name, capsys):
    with pytest.raises(SystemExit) as ended:
        commands.main([name, "--hlep"])
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert told.startswith(f"tfdist {name}: Unknown command line flag 'hlep'. Did you mean: help")
    assert f"usage: tfdist {name} " in told


def test_a_reader_that_has_gone_is_no_error():
    done = subprocess.run(
        ["bash", "-c", f"{sys.executable} -m tfdist env | true; echo ${{PIPESTATUS[0]}}"],
        env=launching.environ_with(), capture_output=True, text=True, timeout=60, check=True,
    )
    assert done.stdout in ("0\n", "141\n")
    assert done.stderr == ""


def test_help_and_versions_do_not_wait_for_tensorflow():
    code = """
import json, sys
from tfdist.cli import commands
for asked in (["--version"], ["help"], ["env"], *(["help", n] for n in commands.COMMANDS)):
    try:
        commands.main(asked)
    except SystemExit:
        pass
print(json.dumps(sorted({"tensorflow", "keras", "numpy"} & set(sys.modules))))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True,
        env=launching.environ_with(),
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []
