"""Do functions and values travel, and is every way in which a worker can fail told?"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import pickle
import signal
import subprocess
import sys
import threading
import time

import launching
import pytest

from tfdist import launch
from tfdist.cluster.detection import detect_cluster
from tfdist.launch import call


def _ranks(*args, **kwargs):
    cluster = detect_cluster()
    return cluster.rank, cluster.size, cluster.local_rank, cluster.is_chief, args, kwargs


class Thing:
    """A value of a class of this module."""

    def __init__(self, number):
        self.number = number

    def __eq__(self, other):
        return self.number == other.number

    def __hash__(self):
        return hash(self.number)

    def add(self, other):
        return self.number + other

    def __call__(self):
        return -self.number


def test_values_come_in_rank_order():
    found = launch.run(_ranks, workers=3, args=(1, "x"), kwargs={"k": [2]})
    assert found == [(rank, 3, rank, rank == 0, (1, "x"), {"k": [2]}) for rank in range(3)]


def test_one_worker():
    assert launch.run(_ranks, workers=1) == [(0, 1, 0, True, (), {})]


def _environment(*names):
    return {name: os.environ.get(name) for name in names}


def test_environment_and_threads():
    names = ("MINE", "TFDIST_THREADS", "OMP_NUM_THREADS", "TF_CONFIG")
    [found] = launch.run(_environment, workers=1, args=names, threads=3, env={"MINE": "x"})
    assert found == {
        "MINE": "x",
        "TFDIST_THREADS": "3",
        "OMP_NUM_THREADS": "3",
        "TF_CONFIG": None,
    }
    assert "MINE" not in os.environ


_BASE = 40


@pytest.mark.parametrize(
    ("fn", "args", "by_name", "expected"),
    [
        pytest.param(os.path.basename, ("a/b",), True, "b", id="library"),
        pytest.param(_ranks, (), True, (0, 1, 0, True, (), {}), id="module"),
        pytest.param(Thing.add, (Thing(1), 2), True, 3, id="method by name, argument of a class"),
        pytest.param(Thing(1).add, (2,), False, 3, id="bound method"),
        pytest.param(Thing(4), (), False, -4, id="callable object"),
        pytest.param(Thing, (4,), True, Thing(4), id="class"),
        pytest.param(functools.partial(max, 3), (2,), False, 3, id="partial"),
        pytest.param(lambda x: x + _BASE, (2,), False, 42, id="lambda"),
        pytest.param((lambda n: lambda: n)(5), (), False, 5, id="closure"),
    ],
)
def test_any_function_travels(fn, args, by_name, expected):
    assert bool(call.importable_name(fn)) == by_name
    assert launch.run(fn, workers=1, args=args) == [expected]


def test_names_that_lead_elsewhere_are_not_used():
    def impostor():
        return "right"

    impostor.__qualname__ = "_place"
    assert call.importable_name(impostor) == ""
    assert launch.run(impostor, workers=1) == ["right"]


def test_functions_of_a_program_travel(tmp_path):
    """As in a notebook: the function and the classes that it uses live in `__main__` only."""
    code = """
    import dataclasses, json
    from tfdist import launch
    @dataclasses.dataclass
    class Point:
        x: int
    BASE = 10
    def work(point):
        import os
        return Point(point.x + BASE + int(os.environ["TFDIST_RANK"]))
    if __name__ == "__main__":
        print(json.dumps([point.x for point in launch.run(work, args=(Point(1),))]))
    """
    path = launching.write_program(tmp_path, code)
    done = subprocess.run(
        [sys.executable, path],
        env=launching.environ_with(),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(done.stdout) == [11, 12]


def test_code_of_a_program_keeps_its_file(tmp_path):
    """Without it a traceback shows no lines, and AutoGraph finds nothing to convert."""
    code = """
    import inspect
    from tfdist import launch
    def told():
        return inspect.getsource(told).strip() + " at line %d" % told.__code__.co_firstlineno
    if __name__ == "__main__":
        offset = 1
        print(launch.run(lambda: (offset, told()), workers=1)[0][1])
    """
    path = launching.write_program(tmp_path, code)
    done = subprocess.run(
        [sys.executable, path],
        env=launching.environ_with(), capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert done.stdout.startswith("def told():\n    return inspect.getsource")
    assert done.stdout.endswith(" at line 4\n")


def test_worker_finds_the_callers_modules(tmp_path, monkeypatch):
    launching.write_program(tmp_path, "def work(): return __file__", "only_here.py")
    monkeypatch.syspath_prepend(tmp_path)
    import only_here

    assert launch.run(only_here.work, workers=1) == [str(tmp_path / "only_here.py")]


# ------------------------------------------------------------------------------------- failures


def _raise_on_one():
    if detect_cluster().rank == 1:
        raise KeyError("the cause")
    time.sleep(60)


def _fail(kind):
    if kind == "exit":
        sys.exit(4)
    if kind == "exit 0":
        sys.exit(0)
    if kind == "_exit":
        os._exit(5)
    if kind == "_exit 0":
        os._exit(0)
    if kind == "signal":
        os.kill(os.getpid(), signal.SIGKILL)
    return threading.Lock()


def test_first_exception_is_raised_in_the_caller(capfd):
    began = time.monotonic()
    with pytest.raises(
        RuntimeError, match="worker 1 failed first: exit code 1: KeyError"
    ) as caught:
        launch.run(_raise_on_one)
    assert time.monotonic() - began < 15
    message = str(caught.value)
    assert 'raise KeyError("the cause")' in message
    assert message.count("File ") == 1  # the function's own line, none of ours
    assert "[worker 1] KeyError: 'the cause'" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("exit", "exit code 4: SystemExit: 4"),
        ("exit 0", "worker 0 ended with exit code 0 before the function returned"),
        ("_exit", "exit code 5"),
        ("_exit 0", "worker 0 ended with exit code 0 before the function returned"),
        ("signal", "killed by SIGKILL"),
        ("value", "The function returned a lock, which cannot be sent back"),
    ],
)
def test_every_end_is_told(kind, told):
    with pytest.raises(RuntimeError, match=told):
        launch.run(_fail, workers=1, args=(kind,))


def _raise_on_load():
    raise ValueError("not today")


class Unloadable:
    """A value that can be sent but not read back."""

    def __reduce__(self):
        return _raise_on_load, ()


def test_value_that_cannot_be_read_back():
    with pytest.raises(RuntimeError, match=r"value of worker 0 cannot be read back.*not today"):
        launch.run(Unloadable, workers=1)


def test_time_limit():
    began = time.monotonic()
    with pytest.raises(RuntimeError, match=r"timeout_secs=1\.5 is over and workers 0-1 still ran"):
        launch.run(time.sleep, args=(60,), timeout_secs=1.5)
    assert time.monotonic() - began < 15


def _count_attempts():
    count = int(os.environ["TFDIST_RESTART_COUNT"])
    if count < 1:
        raise ValueError("the first time")
    return count


def test_restart_returns_the_values_of_the_last_attempt(capfd):
    assert launch.run(_count_attempts, max_restarts=1) == [1, 1]
    assert "ValueError: the first time; restart 1 of 1 in 1 s" in capfd.readouterr().err


def test_logs(tmp_path):
    launch.run(print, args=("hello",), log_dir=str(tmp_path))
    assert [(tmp_path / f"worker_{rank}.log").read_text() for rank in (0, 1)] == ["hello\n"] * 2


@pytest.mark.parametrize(
    ("fn", "arguments", "cause"),
    [
        (time.sleep, {"engine": "banana"}, r"engine='banana' is unknown; use one of \('local',"),
        (time.sleep, {"workers": 0}, "workers=0 must be a whole number from 1"),
        (time.sleep, {"workers": 2.0}, r"workers=2\.0 must be a whole number"),
        (time.sleep, {"workers": True}, "workers=True must be a whole number"),
        (time.sleep, {"threads": 0}, "threads=0 must be"),
        (time.sleep, {"timeout_secs": -1}, "timeout_secs=-1 must be a number of seconds"),
        (time.sleep, {"timeout_secs": "1"}, "timeout_secs='1' must be a number of seconds"),
        (time.sleep, {"env": {"A": 1}}, "must map texts to texts"),
        ("text", {}, "fn='text' cannot be called"),
        (print, {"args": (threading.Lock(),)}, "cannot be sent to the workers"),
    ],
)
def test_wrong_requests(fn, arguments, cause):
    with pytest.raises(ValueError, match=cause):
        launch.run(fn, **arguments)


def _run_inside():
    return launch.run(os.getpid)


def test_worker_starts_no_workers():
    """A file that calls run where it is imported would start workers without end."""
    with pytest.raises(RuntimeError, match="called inside a worker.*if __name__ == '__main__'"):
        launch.run(_run_inside, workers=1)


def test_ctrl_c_in_the_caller_ends_all(tmp_path):
    code = """
    import time
    from tfdist import launch
    def work():
        print("ready", flush=True)
        time.sleep(60)
    launch.run(work)
    """
    path = launching.write_program(tmp_path, code)
    caller = subprocess.Popen(
        [sys.executable, path],
        env=launching.environ_with(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with caller:
        caller.stdout.readline()
        caller.stdout.readline()
        caller.send_signal(signal.SIGINT)
        _, err = caller.communicate(timeout=20)
    assert caller.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in err


def test_run_in_a_thread():
    """The system ends a worker with the thread that started it, which has to wait for it."""
    found = []
    thread = threading.Thread(target=lambda: found.extend(launch.run(_ranks, workers=2)))
    thread.start()
    thread.join(50)
    assert [value[0] for value in found] == [0, 1]


def test_private_folder_is_private_and_goes_away():
    [folder] = launch.run(_look_at_folder, workers=1)
    assert folder["mode"] == 0o700
    assert not pathlib.Path(folder["path"]).exists()


def _look_at_folder():
    path = pathlib.Path(os.environ["TFDIST_RUN_DIR"])
    return {"path": str(path), "mode": path.stat().st_mode & 0o777}


def test_packed_call_needs_no_cloudpickle_for_a_name():
    assert b"cloudpickle" not in call.pack(time.time, (), {})
    content = pickle.loads(call.pack(time.time, (), {}))
    assert content["name"] == "time:time"
