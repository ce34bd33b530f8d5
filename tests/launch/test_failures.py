"""Is the first failure named, do all end together, and when are they started again?"""

from __future__ import annotations

import functools
import os
import pathlib
import re
import signal
import time

import launching
import pytest

from tfdist.cluster import contract
from tfdist.launch import failures
from tfdist.launch.failures import Failure, Outcome

# Worker 1 does something bad, worker 0 would work on for a minute.
_ONE_FAILS = """
import os, signal, sys, time
if os.environ["TFDIST_RANK"] == "0":
    time.sleep(60)
{}
"""


@pytest.fixture
def program(tmp_path):
    """Writes a program; returns its path."""
    return functools.partial(launching.write_program, tmp_path)


# ----------------------------------------------------------------------------- the first failure


@pytest.mark.parametrize(
    ("bad", "code", "told"),
    [
        ("raise KeyError('x')", 1, ["exit code 1: KeyError: 'x'", "Traceback (most recent"]),
        ("raise KeyboardInterrupt", 1, ["exit code 1: KeyboardInterrupt"]),
        ("1 +", 1, ["SyntaxError: invalid syntax"]),
        ("sys.exit(3)", 3, ["exit code 3: SystemExit: 3"]),
        ("sys.exit('no data')", 1, ["exit code 1: SystemExit: no data"]),
        ("sys.exit(256 + 7)", 7, ["exit code 7"]),
        ("os._exit(5)", 5, ["exit code 5"]),
        ("os.kill(os.getpid(), signal.SIGKILL)", 137, ["killed by SIGKILL"]),
        ("os.kill(os.getpid(), signal.SIGTERM)", 143, ["killed by SIGTERM"]),
        ("import ctypes; ctypes.string_at(0)", 139, ["killed by SIGSEGV"]),
    ],
)
def test_first_failure_is_named_and_ends_all(program, bad, code, told):
    began = time.monotonic()
    # The grandchild has to end as well.
    done = launching.launch(program(launching.GRANDCHILD + _ONE_FAILS.format(bad)))
    assert time.monotonic() - began < 15
    assert done.returncode == code
    if "SyntaxError" not in told[0]:
        assert f"tfdist.launch: worker 1 failed first: {told[0]}" in done.stderr
        assert "worker 0 failed" not in done.stderr
    for text in told:
        assert text in done.stderr


def test_worker_without_its_private_folder_fails_as_it_would(program):
    """Its disk may be full, too."""
    code = "import os, shutil; shutil.rmtree(os.environ['TFDIST_RUN_DIR']); sys.exit(7)"
    done = launching.launch(program(_ONE_FAILS.format(code)))
    assert done.returncode == 7
    assert "worker 1 failed first: exit code 7" in done.stderr
    assert "FileNotFoundError" not in done.stderr


def test_traceback_shows_the_program_alone(program):
    path = program(_ONE_FAILS.format("raise KeyError('x')"))
    done = launching.launch(path)
    files = set(re.findall(r'File "([^"]+)"', done.stderr))
    assert files == {path}
    assert "tfdist.launch:       raise KeyError('x')" in done.stderr


def test_one_that_failed_before_but_ends_later_is_named(program):
    """Worker 1's exception breaks worker 0, which is gone first."""
    code = """
    import atexit, os, pathlib, sys, time
    flag = pathlib.Path(sys.argv[1])
    if os.environ["TFDIST_RANK"] == "1":
        atexit.register(time.sleep, 1.5)
        flag.touch()
        raise ValueError("the cause")
    while not flag.exists():
        time.sleep(0.01)
    time.sleep(0.3)
    raise ConnectionError("peer is gone")
    """
    path = program(code)
    done = launching.launch(path, path + ".flag")
    assert "worker 1 failed first: exit code 1: ValueError: the cause" in done.stderr
    assert "worker 0 failed after it: exit code 1" in done.stderr


@pytest.mark.parametrize(("number", "first"), [(signal.SIGKILL, 1), (signal.SIGABRT, 0)])
def test_one_that_was_killed_comes_before_its_peers_exception(program, number, first):
    """A peer may notice a death before the system shows it; an abort may be the consequence."""
    code = """
    import os, pathlib, sys, time
    flag = pathlib.Path(sys.argv[1])
    if os.environ["TFDIST_RANK"] == "1":
        flag.touch()
        time.sleep(0.15)
        os.kill(os.getpid(), int(sys.argv[2]))
    while not flag.exists():
        time.sleep(0.001)
    raise ConnectionError("peer is gone")
    """
    path = program(code)
    done = launching.launch(path, path + ".flag", int(number))
    assert f"worker {first} failed first" in done.stderr
    assert f"worker {1 - first} failed after it" in done.stderr


def test_one_that_fails_but_cannot_end_is_ended(program):
    """A thread that is no daemon keeps the process from ending, as a stuck collective would."""
    bad = "import threading; threading.Timer(50, print).start(); raise ValueError('stuck')"
    began = time.monotonic()
    done = launching.launch("--grace_secs=1", program(_ONE_FAILS.format(bad)))
    assert time.monotonic() - began < 20
    assert done.returncode == 1
    assert "worker 1 failed first: exit code 1: ValueError: stuck" in done.stderr


def test_one_that_ignores_sigterm_is_killed(program):
    code = """
    import os, signal, sys, time
    if os.environ["TFDIST_RANK"] == "0":
        signal.signal(signal.SIGTERM, lambda *_: print("no", flush=True))
        print("deaf", flush=True)
        while True:
            time.sleep(1)
    time.sleep(1)
    sys.exit(4)
    """
    began = time.monotonic()
    done = launching.launch("--grace_secs=0.5", program(code))
    assert time.monotonic() - began < 15
    assert done.returncode == 4
    assert launching.lines_of(done, 0) == ["deaf", "no"]


def test_one_that_ends_well_leaves_the_others_to_work(program):
    code = """
    import os, time
    rank = int(os.environ["TFDIST_RANK"])
    time.sleep(0.7 * rank)
    print("done")
    """
    done = launching.launch("--workers=3", program(code))
    assert (done.returncode, done.stderr) == (0, "")
    assert [launching.lines_of(done, rank) for rank in range(3)] == [["done"]] * 3


def test_one_that_left_early_is_blamed_for_its_lost_peers(program):
    """Worker 1 ends well, and worker 0 finds that its peer has gone (exit code 69)."""
    code = """
    import os, sys, time
    if os.environ["TFDIST_RANK"] == "0":
        time.sleep(0.5)
        sys.exit(69)
    """
    done = launching.launch(program(code))
    assert done.returncode == 69
    assert (
        "worker 1 failed first: it ended with exit code 0 while the others still needed it"
        in done.stderr
    )
    assert "worker 0 failed after it: exit code 69" in done.stderr


@pytest.mark.parametrize(("flags", "in_output"), [([], 0), (["--log_dir={}"], 2)])
def test_traceback_is_shown_once(program, tmp_path, flags, in_output):
    """Both workers raise the same; whoever keeps their output finds it there as well."""
    code = """
    def broken():
        raise ValueError("no data")
    broken()
    """
    flags = [flag.format(tmp_path / "logs") for flag in flags]
    done = launching.launch(*flags, program(code))
    assert done.stderr.count("in broken") == 1 + in_output
    assert "[worker 0] ValueError: no data\n" in done.stderr
    assert "[worker 1] ValueError: no data\n" in done.stderr
    assert "failed after it: exit code 1: the same\n" in done.stderr


# ------------------------------------------------------------------------------- told to stop

_FAMILY = launching.GRANDCHILD + ("import time; print('ready'); time.sleep(60)\n")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_signal_to_the_launcher_ends_all(program, number, code):
    with launching.start("--max_restarts=3", program(_FAMILY)) as launcher:
        assert "ready" in launcher.stdout.readline() + launcher.stdout.readline()
        launcher.send_signal(number)
        _, err = launcher.communicate(timeout=20)
    assert launcher.returncode == code
    assert f"tfdist.launch: stopped by {number.name}" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_workers_with_nothing_to_save_end_at_once(program):
    """TensorFlow's collective runtime would swallow the signal, until the time to save is over."""
    code = """
    import time
    import tfdist
    strategy = tfdist.get_strategy("cpu")
    print("ready")
    time.sleep(60)
    """
    with launching.start("--save_secs=50", "--grace_secs=50", program(code)) as launcher:
        assert "ready" in launcher.stdout.readline() + launcher.stdout.readline()
        began = time.monotonic()
        launcher.send_signal(signal.SIGINT)
        launcher.communicate(timeout=40)
    assert time.monotonic() - began < 10
    assert launcher.returncode == 130


def test_second_signal_ends_them_at_once(program):
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    with launching.start("--grace_secs=50", program(deaf + _FAMILY)) as launcher:
        launcher.stdout.readline()
        launcher.stdout.readline()
        until = time.monotonic() + 20
        while launcher.poll() is None and time.monotonic() < until:
            launcher.send_signal(signal.SIGINT)  # two at once count as one, to a busy machine
            time.sleep(0.5)
        launcher.communicate(timeout=20)
    assert launcher.returncode == 130


@pytest.mark.parametrize("who", ["launcher", "its group"])
def test_killed_launcher_leaves_nobody(program, tmp_path, who):
    code = f"""
    import os, pathlib, subprocess, sys, time
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    folder = pathlib.Path({str(tmp_path)!r})
    (folder / f"pids.{{os.getpid()}}").write_text(f"{{os.getpid()}} {{child.pid}}")
    time.sleep(60)
    """
    with launching.start(program(code)) as launcher:
        launching.wait_for(lambda: len([p for p in tmp_path.glob("pids.*") if p.read_text()]) == 2)
        pids = [int(pid) for path in tmp_path.glob("pids.*") for pid in path.read_text().split()]
        assert len(pids) == 4
        if who == "launcher":
            launcher.kill()
        else:
            os.killpg(launcher.pid, signal.SIGKILL)
        launcher.communicate(timeout=20)
    launching.wait_for(lambda: not any(map(launching.is_alive, pids)), "processes were left")


def test_killed_launcher_and_guardian_leave_no_worker(program):
    """The system itself ends the workers, where nobody else can."""
    code = "import os, time; print(os.getpid()); time.sleep(60)"
    with launching.start(program(code)) as launcher:
        workers = [int(launcher.stdout.readline().split()[-1]) for _ in range(2)]
        [guardian] = [pid for pid in _children(launcher.pid) if pid not in workers]
        os.kill(guardian, signal.SIGKILL)
        launcher.kill()
        launcher.communicate(timeout=20)
    launching.wait_for(lambda: not any(map(launching.is_alive, workers)), "workers were left")


def _children(pid):
    return map(int, pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


def test_time_limit_shows_where_they_are(program):
    code = """
    import time
    def stuck_here():
        time.sleep(60)
    stuck_here()
    """
    done = launching.launch("--timeout_secs=1.5", program(code))
    assert done.returncode == 124
    assert "timeout_secs=1.5 is over and workers 0-1 still ran" in done.stderr
    assert done.stderr.count("in stuck_here") == 2


# -------------------------------------------------------------------------------------- restarts

_FAIL_TWICE = """
import os, pathlib, sys, time
rank, count = os.environ["TFDIST_RANK"], os.environ["TFDIST_RESTART_COUNT"]
print(count, os.getpid(), os.environ["TFDIST_ADDRESSES"])
if rank == "1" and int(count) < 2:
    time.sleep(0.2)
    sys.exit(10 + int(count))
time.sleep(1 if rank == "0" else 0)
"""


@pytest.mark.slow
def test_all_are_restarted_until_it_succeeds(program):
    done = launching.launch("--max_restarts=3", program(_FAIL_TWICE))
    assert done.returncode == 0
    shown = [line.split() for rank in (0, 1) for line in launching.lines_of(done, rank)]
    assert [row[0] for row in shown] == ["0", "1", "2"] * 2
    assert len({row[1] for row in shown}) == 6  # new processes
    assert len({row[2] for row in shown}) == 3  # new ports
    assert "tfdist.launch: all workers ended well\n" in done.stderr
    assert "exit code 10: SystemExit: 10; restart 1 of 3 in 1 s" in done.stderr
    assert "exit code 11: SystemExit: 11; restart 2 of 3 in 2 s" in done.stderr


def test_every_root_cause_is_in_the_final_summary(program):
    done = launching.launch("--max_restarts=1", program(_FAIL_TWICE))
    assert done.returncode == 11
    summary = done.stderr[done.stderr.rindex("exit code 11: SystemExit: 11\n") :]
    assert "before restart 1, worker 1 failed first: exit code 10" in summary


def test_stop_while_it_waits_to_restart(program):
    with launching.start("--max_restarts=9", program("import sys; sys.exit(3)")) as launcher:
        while "restart 2 of 9 in 2 s" not in launcher.stderr.readline():
            pass
        launcher.terminate()
        _, err = launcher.communicate(timeout=10)
    assert launcher.returncode == 143
    assert "stopped by SIGTERM before a restart" in err
    assert "before restart 1, worker" in err


_PORT_TAKEN = """
import os, pathlib, sys, time
rank = os.environ["TFDIST_RANK"]
folder = pathlib.Path(sys.argv[1])
tries = len(list(folder.glob(f"{rank}.*")))
(folder / f"{rank}.{tries}").touch()
print(os.environ["TFDIST_ADDRESSES"], os.environ["TFDIST_RESTART_COUNT"])
if rank == "1" and tries < int(sys.argv[2]):
    time.sleep(float(sys.argv[3]))
    raise RuntimeError(sys.argv[4])
if rank == "0" and float(sys.argv[3]) == 0:
    time.sleep(1)
"""


@pytest.mark.parametrize(
    ("failures", "secs", "text", "code", "attempts"),
    [
        pytest.param(1, 0, "x: Could not start gRPC server", 0, 2, id="as TensorFlow says it"),
        pytest.param(1, 0, "1 cannot listen at its address a:1", 0, 2, id="as peers.py says it"),
        pytest.param(9, 0, "Could not start gRPC server", 1, 3, id="not for ever"),
        pytest.param(1, 1, "Could not start gRPC server", 1, 1, id="not after a good end"),
        pytest.param(1, 0, "Address already in use", 1, 1, id="not for servers of the program"),
    ],
)
def test_taken_port_is_tried_again(program, tmp_path, failures, secs, text, code, attempts):
    folder = tmp_path / "tries"
    folder.mkdir()
    done = launching.launch(program(_PORT_TAKEN), folder, failures, secs, text)
    assert done.returncode == code
    shown = [line.split() for line in launching.lines_of(done, 1)]
    assert len({row[0] for row in shown}) == len(shown) == attempts
    assert {row[1] for row in shown} == {"0"}  # it does not count as a restart
    assert done.stderr.count("a worker's port was taken, trying others") == attempts - 1


# ---------------------------------------------------------------------------------------- stalls

# The steps of a real run are made together.  So neither begins before both are there, and the one
# that gets stuck does so when the other one has made all of its steps: a process that is slow to
# start would otherwise be the one that held up.
_STALLS = """
import os, pathlib, sys, time
from tfdist.cluster.progress import Progress
def stuck_here():
    time.sleep(60)
def waits_for(name):
    while not (folder / name).exists():
        time.sleep(0.01)
folder = pathlib.Path(sys.argv[1]) / os.environ["TFDIST_RESTART_COUNT"]
folder.mkdir(exist_ok=True)
is_first = os.environ["TFDIST_RESTART_COUNT"] == "0"
(folder / os.environ["TFDIST_RANK"]).touch()
waits_for("0"), waits_for("1")
with Progress() as progress:
    for step in range(10):
        if os.environ["TFDIST_RANK"] == "1" and step == 3 and is_first:
            waits_for("all steps")
            stuck_here()
        progress.tick()
    if os.environ["TFDIST_RANK"] == "0" and is_first:
        (folder / "all steps").touch()
        time.sleep(60)  # it waits for the other one
print("done")
"""


def test_one_that_makes_no_step_is_found_and_all_are_restarted(program, tmp_path):
    began = time.monotonic()
    done = launching.launch("--stall_secs=2", "--max_restarts=1", program(_STALLS), tmp_path)
    assert time.monotonic() - began < 30
    assert done.returncode == 0
    assert [launching.lines_of(done, rank) for rank in (0, 1)] == [["done"], ["done"]]
    assert done.stderr.count("in stuck_here") == 1
    cause = "no step for stall_secs=2.0: worker 1 held up the others"
    assert f"before restart 1, {cause}" in done.stderr


def test_one_that_is_outside_of_a_run_may_take_its_time(program):
    done = launching.launch("--stall_secs=0.5", program("import time; time.sleep(2)"))
    assert done.returncode == 0


def _lost(rank, *, lost, at=10.0):
    text = f"RuntimeError: worker {lost} has left"
    return Failure(rank, at, contract.PEER_LOST, "exit code 69", text, lost=lost)


@pytest.mark.parametrize(
    ("ended_well", "blamed"),
    [
        ([(1, 9.0)], 1),
        ([(1, 10.5)], 1),  # its end was seen a moment after the other one had noticed it
        ([(2, 1.0), (1, 10.5)], 1),  # which had done its part
        ([], 0),
    ],
)
def test_the_one_that_was_lost_is_blamed(ended_well, blamed):
    found = failures.blame_deserters([_lost(0, lost=1)], ended_well)
    assert found[0].rank == blamed


def test_one_that_is_lost_and_lives_is_in_the_headline():
    told = failures.headline(Outcome(failures=(_lost(0, lost=1),)))
    assert told == "worker 1 was lost to worker 0: RuntimeError: worker 1 has left"
