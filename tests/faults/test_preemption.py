"""What does the launcher make of workers that save and leave?"""

from __future__ import annotations

import functools
import signal
import time

import launching
import pytest

from tfdist.cluster.contract import PREEMPTED

# Leaves as `fit` does, some time after it was told to.
_LEAVES = f"""
import signal, sys, time
def leave(*_):
    print("told", flush=True)
    time.sleep(float(sys.argv[1]))
    sys.exit({PREEMPTED})
signal.signal(signal.SIGTERM, leave)
print("ready")
time.sleep(60)
"""


@pytest.fixture
def program(tmp_path):
    """Writes a program; returns its path."""
    return functools.partial(launching.write_program, tmp_path)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_launcher_hands_it_on_and_waits(program, number):
    flags = ["--grace_secs=0.1", "--max_restarts=3"]
    with launching.start(*flags, program(_LEAVES), 1.0) as launcher:
        assert "ready" in launcher.stdout.readline() + launcher.stdout.readline()
        launcher.send_signal(number)
        _, err = launcher.communicate(timeout=20)
    assert launcher.returncode == PREEMPTED
    assert err.startswith(f"tfdist.launch: preempted: stopped by {number.name}; ")
    assert "whether they have saved, they did not say" in err
    assert "is saved" not in err  # this program has saved nothing
    assert err.count("\n") == 1


@pytest.mark.parametrize("how", ["time is over", "told twice"])
def test_one_that_takes_too_long_is_ended(program, how):
    flags = ["--grace_secs=0.1", f"--save_secs={0.5 if how == 'time is over' else 50}"]
    with launching.start(*flags, program(_LEAVES), 50) as launcher:
        assert "ready" in launcher.stdout.readline() + launcher.stdout.readline()
        began = time.monotonic()
        launcher.terminate()
        if how == "told twice":  # a second signal that comes before the first is seen is none
            assert "told" in launcher.stdout.readline() + launcher.stdout.readline()
            launcher.terminate()
        _, err = launcher.communicate(timeout=20)
    assert time.monotonic() - began < 15
    assert launcher.returncode == 128 + signal.SIGTERM
    assert err == "tfdist.launch: stopped by SIGTERM\n"


_ONE_IS_TOLD = f"""
import os, sys, time
if os.environ["TFDIST_RESTART_COUNT"] == "0":
    time.sleep(float(os.environ["TFDIST_RANK"]))  # they do not leave at the same moment
    print("left")
    sys.exit({PREEMPTED})
"""


def test_all_are_started_anew_where_one_worker_was_told(program):
    done = launching.launch("--max_restarts=1", program(_ONE_IS_TOLD))
    assert done.returncode == 0
    assert [launching.lines_of(done, rank) for rank in (0, 1)] == [["left"], ["left"]]
    assert "before restart 1, preempted: a worker was told to leave; " in done.stderr


def test_that_is_told_by_the_exit_code_where_they_are_not(program):
    done = launching.launch(program(_ONE_IS_TOLD))
    assert done.returncode == PREEMPTED
    assert done.stderr.startswith("tfdist.launch: preempted: a worker was told to leave; ")
    assert done.stderr.count("\n") == 1
