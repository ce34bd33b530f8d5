"""Does informational log stay out of the terminal, and nothing else, unless the user wants it?"""

from __future__ import annotations

import functools
import subprocess
import sys

import launching
import pytest

from tfdist.cluster import quiet
from tfdist.launch.job import Job

_ONEDNN = "I0000 00:00:1796003156.533861   24508 port.cc:153] oneDNN custom operations are on."
_PYTHON = "I1130 01:45:59.164999 140347445808000 factory.py:181] multi_worker on /cpu:0"
_OLD = "2026-11-30 01:45:59.164999: I tensorflow/core/platform/cpu_feature_guard.cc:210] This"
_WARNING = "W0000 00:00:1796003745.167720    3882 preemption_notifier.cc:90] SIGTERM caught"


@pytest.fixture
def program(tmp_path):
    """Writes a program; returns its path."""
    return functools.partial(launching.write_program, tmp_path)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (_ONEDNN, True),
        (_PYTHON, True),
        (_OLD, True),
        ("To enable the following instructions: AVX2 FMA, in other operations, rebuild", True),
        ("WARNING: All log messages before absl::InitializeLog() is called are written to", True),
        ("/job:worker/replica:0/task:1", True),
        (_WARNING, False),
        (_OLD.replace(": I ", ": W "), False),
        ("E0000 00:00:1.5 1 a.cc:1] b", False),
        ("free(): invalid pointer", False),
        ("I0 am a line of the program", False),
        ("I1234 wrote this", False),
        ("  " + _ONEDNN, False),
        ("", False),
    ],
)
def test_which_lines_are_information(line, expected):
    assert quiet.is_information(line.encode()) == expected


_SPEAK = f"""
import os, sys
for line in ({_ONEDNN!r}, {_WARNING!r}, "mine"):
    print(line, file=sys.stderr)
print("level", os.environ.get("TF_CPP_MIN_LOG_LEVEL"))
"""


def _environ(**variables):
    environ = launching.environ_with()
    environ.pop(quiet.LOG_LEVEL, None)
    return {**environ, **variables}


def test_the_log_has_all_and_the_terminal_warnings(program, tmp_path):
    logs = tmp_path / "logs"
    done = launching.launch(
        "--workers=1", f"--log_dir={logs}", program(_SPEAK), env=_environ()
    )
    assert launching.lines_of(done, 0) == ["level None"]
    assert done.stderr == f"[worker 0] {_WARNING}\n[worker 0] mine\n"
    assert _ONEDNN in (logs / "worker_0.log").read_text().splitlines()


def test_without_a_log_tensorflow_writes_no_information(program):
    done = launching.launch("--workers=1", program(_SPEAK), env=_environ())
    assert launching.lines_of(done, 0) == ["level 1"]
    assert _ONEDNN not in done.stderr


@pytest.mark.parametrize(("level", "shown"), [("0", True), ("2", False)])
def test_the_users_word_holds(program, level, shown):
    done = launching.launch(
        "--workers=1", program(_SPEAK), env=_environ(TF_CPP_MIN_LOG_LEVEL=level)
    )
    assert launching.lines_of(done, 0) == [f"level {level}"]
    assert (f"[worker 0] {_ONEDNN}" in done.stderr) == shown
    assert "[worker 0] mine" in done.stderr


def test_what_is_written_as_a_library_is_loaded(tmp_path):
    """Informational log is spared; the rest is shown, and what a crash says last as well."""
    lines = [_ONEDNN, _WARNING, "free(): invalid pointer"]
    code = (
        "import os, sys; from tfdist.cluster import quiet\n"
        "with quiet.without_information():\n"
        f"    os.write(2, {chr(10).join(lines).encode() + bytes([10])!r})\n"
        "    [os.abort() for argument in sys.argv if argument == 'abort']\n"
        f"print({_ONEDNN!r}, file=sys.stderr)\n"
    )
    shown = "".join(f"{line}\n" for line in lines[1:])
    for arguments, after in ((["go on"], f"{_ONEDNN}\n"), (["abort"], "")):
        # In a file: who reads a pipe would not wait for the other process.
        with open(tmp_path / "stderr", "w+") as file:
            subprocess.run(
                [sys.executable, "-c", code, *arguments], env=launching.environ_with(),
                stderr=file, timeout=60, check=False,
            )
            launching.wait_for(
                lambda: (tmp_path / "stderr").read_text() == shown + after,  # noqa: B023
                "something else was shown",
            )


def test_the_word_in_a_jobs_environment_holds_too(monkeypatch):
    monkeypatch.delenv(quiet.LOG_LEVEL, raising=False)
    assert Job(workers=1).is_quiet
    assert not Job(workers=1, env={quiet.LOG_LEVEL: "0"}).is_quiet
    assert Job(workers=1, env={quiet.LOG_LEVEL: "3"}).is_quiet
