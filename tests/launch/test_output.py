"""Are the workers' lines shown whole, with their names, and kept in files?"""

from __future__ import annotations

import functools
import io
import os
import pathlib
import pty
import shlex
import subprocess
import sys
import time

import launching
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdist.launch import output
from tfdist.launch.output import IDLE_SECS, UPDATE_SECS, LineSplitter, Pump, say, write


@pytest.fixture
def program(tmp_path):
    """Writes a program; returns its path."""
    return functools.partial(launching.write_program, tmp_path)


# ---------------------------------------------------------------------------------- lines


def _split(pieces, *, secs=0.0):
    """Feeds pieces at equal distances; returns the lines after each, and what is left."""
    splitter = LineSplitter()
    shown = [splitter.feed(piece, now=100 + secs * n) for n, piece in enumerate(pieces)]
    return [*shown, splitter.finish()]


@pytest.mark.parametrize(
    ("pieces", "expected"),
    [
        pytest.param([b"a\nb\n"], [[b"a", b"b"], []], id="lines"),
        pytest.param([b"a", b"b\nc"], [[], [b"ab"], [b"c"]], id="pieces"),
        pytest.param([b"\n\n"], [[b"", b""], []], id="blank lines"),
        pytest.param([b"a\r\nb\r\n"], [[b"a", b"b"], []], id="lines of Windows"),
        pytest.param([b"1%\r2%\r3%\n"], [[b"3%"], []], id="finished bar"),
        pytest.param(["ü".encode()[:1], "ü\n".encode()[1:]], [[], ["ü".encode()], []], id="utf-8"),
        pytest.param([b"\xff\xfe\n"], [[b"\xff\xfe"], []], id="no utf-8"),
    ],
)
def test_lines(pieces, expected):
    assert _split(pieces) == expected


def test_progress_bar_is_shown_now_and_then():
    pieces = [f"\r{n}%".encode() for n in range(100)]
    shown = _split(pieces, secs=UPDATE_SECS / 10)
    states = [line for lines in shown for line in lines]
    assert 8 <= len(states) <= 13
    assert states[-1] == b"99%"  # the last one is always shown


def test_where_nobody_watches_it_is_a_line_a_minute():
    splitter = LineSplitter(update_secs=output.UPDATE_SECS_OF_FILES)
    shown = [splitter.feed(b"\r%d%%" % n, now=100.0 + n) for n in range(150)]
    assert [line for lines in shown for line in lines] == [b"0%", b"60%", b"120%"]
    assert splitter.finish() == [b"149%"]


def test_on_a_terminal_the_chiefs_bar_stays_in_its_line(monkeypatch):
    """With `output="chief"`; a line that comes after it does not follow in its midst."""
    monkeypatch.setattr(output, "UPDATE_SECS", 0.0)
    terminal, own = pty.openpty()
    reader, writer = os.pipe()
    with open(own, "w", encoding="utf-8") as shown:
        pump = Pump(log_dir=None, is_restart=False, output="chief")
        pump.add(0, os.fdopen(reader, "rb", buffering=0), shown)
        pump.start()
        for piece in (b"Epoch 1\n", b"\r10%", b"\r20%", b"\r30%\n", b"done\n"):
            os.write(writer, piece)
            time.sleep(0.05)
        os.close(writer)
        pump.close()
    seen = os.read(terminal, 10_000)
    os.close(terminal)
    assert seen == b"Epoch 1\r\n10%\r\x1b[K30%\r\ndone\r\n"


def test_unfinished_line_waits_a_little():
    splitter = LineSplitter()
    assert splitter.feed(b"Loading", now=10) == []
    assert splitter.wait(now=10 + IDLE_SECS / 2) == []
    assert splitter.wait(now=10 + IDLE_SECS) == [b"Loading"]
    assert splitter.feed(b" done\n", now=20) == [b" done"]
    assert splitter.wait(now=30) == []


def test_endless_line_is_cut_between_characters(monkeypatch):
    monkeypatch.setattr(output, "LONGEST_LINE", 10)
    text = "ü" * 50
    shown = _split([b"x", text.encode()])
    lines = [line for lines in shown for line in lines]
    assert all(len(line) <= 10 for line in lines)
    assert "".join(line.decode() for line in lines) == "x" + text


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_nothing_is_lost_but_what_was_rewritten(pieces):
    data = b"".join(pieces).replace(b"\r", b"")
    shown = _split([piece.replace(b"\r", b"") for piece in pieces])
    lines = [line for lines in shown for line in lines]
    expected = data.split(b"\n")
    assert lines == (expected if expected[-1] else expected[:-1])


@given(st.lists(st.binary(max_size=20), max_size=8))
def test_the_end_of_every_line_is_shown(pieces):
    data = b"".join(pieces)
    lines = [line for lines in _split(pieces) for line in lines]
    for line in data.split(b"\n"):
        assert line.rstrip(b"\r").rpartition(b"\r")[2] in [*lines, b""]


def test_workers_lines_are_never_mixed():
    """Two workers write pieces of lines at the same time."""
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    pump = Pump(log_dir=None, is_restart=False)
    writers = []
    for rank in (0, 1):
        reader, writer = os.pipe()
        pump.add(rank, os.fdopen(reader, "rb", buffering=0), shown)
        writers.append(writer)
    pump.start()
    for n in range(200):
        for rank, writer in enumerate(writers):
            os.write(writer, b"%d:%d" % (rank, n))
            os.write(writer, b"!" * 50)
        for writer in writers:
            os.write(writer, b"\n")
    for writer in writers:
        os.close(writer)
    pump.close()
    lines = shown.buffer.getvalue().decode().splitlines()
    for rank in (0, 1):
        expected = [f"[worker {rank}] {rank}:{n}{'!' * 50}" for n in range(200)]
        assert [line for line in lines if line.startswith(f"[worker {rank}]")] == expected
    assert len(lines) == 400


def test_streams_without_bytes_below_get_text():
    stream = io.StringIO()
    write("ü".encode() + b"\xff", stream)
    assert stream.getvalue() == "ü\N{REPLACEMENT CHARACTER}"


def test_say_names_the_launcher(capsys):
    say("one\ntwo")
    assert capsys.readouterr().err == "tfdist.launch: one\ntfdist.launch: two\n"


def test_full_disk_does_not_stop_the_job(tmp_path, capsys):
    if not os.path.exists("/dev/full"):
        pytest.skip("needs /dev/full, a device that is always full")
    (tmp_path / "worker_0.log").symlink_to("/dev/full")
    shown = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    pump = Pump(log_dir=str(tmp_path), is_restart=False)
    reader, writer = os.pipe()
    pump.add(0, os.fdopen(reader, "rb", buffering=0), shown)
    pump.start()
    os.write(writer, b"one\n")
    os.write(writer, b"two\n")
    os.close(writer)
    pump.close()
    assert shown.buffer.getvalue() == b"[worker 0] one\n[worker 0] two\n"
    assert "the log of worker 0 in log_dir=" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------ logs


def test_logs_are_whole(program, tmp_path):
    code = r"""
    import os, sys
    rank = os.environ["TFDIST_RANK"]
    print("to out ü " + rank)
    print("to err", file=sys.stderr)
    sys.stdout.write("10%\r20%\r30%\n")
    sys.stdout.write("no end")
    """
    logs = tmp_path / "new" / "logs"
    done = launching.launch(
        f"--log_dir={logs}", program(code), env=launching.environ_with(PYTHONIOENCODING="utf-8")
    )
    assert sorted(path.name for path in logs.iterdir()) == ["worker_0.log", "worker_1.log"]
    for rank in (0, 1):
        log = (logs / f"worker_{rank}.log").read_bytes().decode()
        assert f"to out ü {rank}\n" in log
        assert "to err" in log.splitlines()
        assert "10%\r20%\r30%\n" in log
        assert "no end" in log.split("\n")  # what goes to stderr may come before it
        assert launching.lines_of(done, rank) == [f"to out ü {rank}", "30%", "no end"]
    assert "[worker 0] to err\n" in done.stderr


def test_logs_go_on_over_restarts(program, tmp_path):
    code = """
    import os, sys
    print("attempt", os.environ["TFDIST_RESTART_COUNT"])
    sys.exit(os.environ["TFDIST_RESTART_COUNT"] == "0")
    """
    log = tmp_path / "worker_1.log"
    log.write_text("of an earlier job")
    done = launching.launch("--max_restarts=3", f"--log_dir={tmp_path}", program(code))
    assert done.returncode == 0
    assert log.read_text() == "attempt 0\n--- restarted ---\nattempt 1\n"


def test_reader_that_has_gone_does_not_stop_the_job(program, tmp_path):
    code = "for n in range(20000): print('x' * 50)\nopen(f'{__file__}.done', 'w')\n"
    path = program(code)
    with launching.start("--workers=1", path) as launcher:
        launcher.stdout.readline()
        launcher.stdout.close()
        assert launcher.wait(timeout=30) == 0
        launcher.stdout = None
    assert pathlib.Path(path + ".done").exists()


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&- >&- 2>&-", ">/dev/full"])
def test_streams_that_cannot_be_written_do_not_stop_the_job(program, tmp_path, closed):
    code = """
    import sys
    for stream in (sys.stdout, sys.stderr):
        for n in range(4000):
            print("x" * 50, file=stream)  # more than a pipe holds
    """
    command = [sys.executable, "-m", "tfdist.launch", f"--log_dir={tmp_path}", program(code)]
    done = subprocess.run(
        ["sh", "-c", f"exec {shlex.join(command)} {closed}"], env=launching.environ_with(),
        capture_output=True, timeout=40, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for rank in (0, 1):
        log = (tmp_path / f"worker_{rank}.log").read_text()
        assert log == ("x" * 50 + "\n") * 8000, "nothing else got into it"
