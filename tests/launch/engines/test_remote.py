"""Do workers that are led through agents behave as those that are this process's own children?

The engine of these tests starts its agents on this host, in an environment that has nothing of the
launcher's; test_engines.py does the same with real engines.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
import types

import launching
import pytest

from tfdist import launch
from tfdist.cluster import contract
from tfdist.cluster.detection import detect_cluster
from tfdist.launch import job, sizes
from tfdist.launch.engines import remote

_AGENT = "from tfdist.launch.engines import agent; agent.serve({!r}, secret={!r}, rank={})"


class _Seats:
    """Agents that are processes of this host."""

    def __init__(self, ranks, address, secret):
        path = os.pathsep.join(launching.TEST_PATHS)
        environ = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "ONLY_HERE": "1"}
        environ["OMPI_COMM_WORLD_SIZE"] = "7"  # what an engine may leave in there
        self._agents = [
            subprocess.Popen(
                [sys.executable, "-c", _AGENT.format(address, secret, rank)], env=environ, cwd="/"
            )
            for rank in ranks
        ]
        self.text = ""

    def problem(self):
        return self.text

    def is_queued(self):
        return False

    def end(self):
        for process in self._agents:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(1)
            process.kill()
            process.wait()


@pytest.fixture
def engine(monkeypatch):
    """Makes the engine "in_test"; returns what can be changed in it."""
    settings = types.SimpleNamespace(
        ranks=None, before=lambda address: None, problem="", places=None
    )

    def place(asked, *, is_restart):
        def seat(address, secret):
            settings.before(address)
            ranks = range(asked.workers) if settings.ranks is None else settings.ranks
            seats = _Seats(ranks, address, secret)
            seats.text = settings.problem
            return seats

        return remote.RemoteGang(asked, interface="127.0.0.1", seat=seat, is_restart=is_restart)

    module = types.ModuleType("tfdist.launch.engines.in_test")
    module.place = place
    module.open_places = lambda job: contextlib.nullcontext(settings.places)
    monkeypatch.setitem(sys.modules, "tfdist.launch.engines.in_test", module)
    monkeypatch.setattr(job, "ENGINES", (*job.ENGINES, "in_test"))
    return settings


def _run(fn, *args, **kwargs):
    return launch.run(fn, engine="in_test", args=args, **kwargs)


def _ranks(word):
    found = detect_cluster()
    print("hello", found.rank)
    print("oh", found.rank, file=sys.stderr)
    return found.rank, found.size, found.local_rank, found.local_size, len(found.addresses), word


def test_values_lines_and_logs(engine, capfd, tmp_path):
    found = _run(_ranks, "x", workers=3, log_dir=str(tmp_path))
    assert found == [(rank, 3, rank, 3, 3, "x") for rank in range(3)]
    out, err = capfd.readouterr()
    for rank in range(3):
        assert f"[worker {rank}] hello {rank}\n" in out
        assert f"[worker {rank}] oh {rank}\n" in err
        log = (tmp_path / f"worker_{rank}.log").read_text()
        assert sorted(log.splitlines()) == [f"hello {rank}", f"oh {rank}"]


def _environment(*names):
    return {name: os.environ.get(name) for name in names}


def test_environment(engine, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.setenv("OF_THE_LAUNCHER", "1")
    names = ("MINE", "TFDIST_THREADS", "KERAS_BACKEND", "PYTHONHASHSEED", "ONLY_HERE")
    names += ("OF_THE_LAUNCHER", "OMPI_COMM_WORLD_SIZE")
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    found = _run(_environment, *names, threads=3, env={"MINE": "x"})
    wanted = {
        "MINE": "x",
        "TFDIST_THREADS": "3",
        "KERAS_BACKEND": "tensorflow",
        "PYTHONHASHSEED": "0",
        "ONLY_HERE": "1",
        "OF_THE_LAUNCHER": None,
        "OMPI_COMM_WORLD_SIZE": None,
    }
    assert found == [wanted, wanted]


def _large():
    return bytes(5_000_001)


def test_large_value(engine):
    assert _run(_large) == [bytes(5_000_001)] * 2


def _fail(how):
    if detect_cluster().rank == 1:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        if how == "raises":
            raise KeyError("the cause")
        if how == "exits":
            sys.exit(3)
        os.kill(os.getppid() if how == "agent is killed" else os.getpid(), signal.SIGKILL)
    time.sleep(60)


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("raises", "exit code 1: KeyError: 'the cause'"),
        ("exits", "exit code 3: SystemExit: 3"),
        ("is killed", "killed by SIGKILL"),
        ("agent is killed", "exit code 1: RuntimeError: the connection to its host was lost"),
    ],
)
def test_first_failure_is_named_and_ends_all(engine, how, told):
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="worker 1 failed first") as caught:
        _run(_fail, how)
    assert told in str(caught.value)
    assert time.monotonic() - began < 20


def _lose_the_chief():
    """Worker 1 leaves as one that has lost its peer does, and names it."""
    if detect_cluster().rank == 1:
        contract.write_failure(
            os.environ[contract.RUN_DIR], rank=1, at=time.monotonic(),
            exit_code=contract.PEER_LOST, traceback="RuntimeError: it is silent", lost=0,
        )  # fmt: skip
        os._exit(contract.PEER_LOST)
    time.sleep(60)


def test_worker_that_was_lost_to_another_is_named(engine):
    with pytest.raises(RuntimeError, match="^worker 0 was lost to worker 1: RuntimeError: it is"):
        _run(_lose_the_chief)


def _count_attempts():
    count = int(os.environ["TFDIST_RESTART_COUNT"])
    if count < 1:
        raise ValueError("the first time")
    return count, os.getpid()


@pytest.mark.slow
def test_restart_is_in_new_processes(engine):
    found = _run(_count_attempts, max_restarts=1)
    assert [count for count, _ in found] == [1, 1]


def _stall():
    from tfdist.cluster.progress import Progress

    with Progress() as progress:
        for step in range(6):
            time.sleep(0.3)
            if step == 2 and detect_cluster().rank == 1:
                time.sleep(60)
            progress.tick()
        time.sleep(60)


@pytest.mark.slow
def test_stall_is_found(engine, capfd):
    with pytest.raises(RuntimeError, match="worker 1 held up the others"):
        _run(_stall, stall_secs=2.0)
    assert "in _stall" in capfd.readouterr().err  # the stacks were asked for


def test_time_limit(engine):
    with pytest.raises(RuntimeError, match=r"timeout_secs=2 is over and workers 0-1 still ran"):
        _run(time.sleep, 60, timeout_secs=2)


def test_place_that_does_not_come_is_named(engine):
    engine.ranks = [0]
    with pytest.raises(RuntimeError, match="has not made a place for worker 1 within roll_call"):
        _run(time.sleep, 60, roll_call_secs=1.5)


def test_elastic_job_goes_on_with_those_whose_place_came(engine, capfd):
    engine.ranks = [0]
    found = _run(_ranks, "x", workers="1:2", roll_call_secs=1.0, wait_secs=1.0)
    assert found == [(0, 1, 0, 1, 1, "x")]
    assert "has not made a place for worker 1 within roll_call_secs=1.0" in capfd.readouterr().err


def _leave_when_asked():
    size = detect_cluster().size
    deadline = time.monotonic() + 30
    while size == 1 and time.monotonic() < deadline:
        time.sleep(0.05)
        if contract.is_asked_to_leave(os.environ):
            raise contract.Saved
    return size


def test_elastic_job_grows_where_the_engine_has_more_places(engine, monkeypatch, capfd):
    monkeypatch.setattr(sizes, "STEADY_SECS", 0.2)
    began = time.monotonic()
    engine.places = lambda: 1 if time.monotonic() < began + 1.5 else 2
    assert _run(_leave_when_asked, workers="1:4") == [2, 2]
    assert "places for 2 workers now, and 1 are at work" in capfd.readouterr().err


def _die_of(how, note):
    if detect_cluster().size == 2 and detect_cluster().rank == 1:
        pathlib.Path(note).touch()
        os.kill(os.getppid() if how == "agent is killed" else os.getpid(), signal.SIGKILL)
    time.sleep(60 if detect_cluster().size == 2 else 0)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["agent is killed", "is killed"])
def test_host_that_the_engine_misses_late_costs_no_restart(engine, how, tmp_path):
    note = tmp_path / "died"
    engine.places = lambda: 1 if note.exists() and time.time() > note.stat().st_mtime + 1.5 else 2
    assert _run(_die_of, how, str(note), workers="1:2", wait_secs=3.0) == [None]


def test_worker_whose_place_is_still_there_costs_one(engine, tmp_path):
    engine.places = lambda: 2
    with pytest.raises(RuntimeError, match="^worker 1 failed first: killed by SIGKILL"):
        _run(_die_of, "is killed", str(tmp_path / "died"), workers="1:2", wait_secs=1.0)


def test_problem_of_the_engine_is_told_at_once(engine):
    engine.ranks, engine.problem = [0], "no room"
    began = time.monotonic()
    with pytest.raises(RuntimeError, match="engine in_test: no room"):
        _run(time.sleep, 60)
    assert time.monotonic() - began < 10


def test_strangers_do_not_disturb(engine):
    connections = []

    def visit(address):
        host, _, port = address.rpartition(":")
        for junk in (b"", b"GET / HTTP/1.1\r\n\r\n", b"{}\n", b"x" * 100_000):
            connection = socket.create_connection((host, int(port)), timeout=5)
            with contextlib.suppress(OSError):
                connection.sendall(junk)
            connections.append(connection)

    engine.before = visit
    try:
        assert [value[0] for value in _run(_ranks, "x")] == [0, 1]
    finally:
        for connection in connections:
            connection.close()


def test_second_agent_of_a_rank_is_sent_away(engine):
    engine.ranks = [0, 1, 1, 5]
    assert [value[0] for value in _run(_ranks, "x")] == [0, 1]


def test_cores_of_a_host_are_shared_where_they_overlap():
    def cores_of(*cores):
        gang = remote.RemoteGang.__new__(remote.RemoteGang)
        gang._seated = {
            rank: remote._Seated(None, "10.0.0.1", "n1", own) for rank, own in enumerate(cores)
        }
        return [gang._location_of(rank)["cores"] for rank in range(len(cores))]

    # `threads` is cores / local_size.
    assert cores_of((0, 1, 2, 3), (0, 1, 2, 3)) == [4, 4]  # 2 threads each
    assert cores_of((0, 1), (2, 3)) == [4, 4]  # 2 threads each
    assert cores_of((0,), (1,)) == [2, 2]  # 1 thread each


def test_launcher_that_was_killed_leaves_nobody(tmp_path):
    """The agents see the end of the connection."""
    code = f"""
    import sys
    sys.path[:0] = {launching.TEST_PATHS!r}
    from tests.launch.engines import test_remote as tests
    from tfdist.launch import attempt, job, stop
    from tfdist.launch.engines import remote
    class Engine:
        def place(self, asked, *, is_restart):
            seat = lambda address, secret: tests._Seats(range(2), address, secret)
            return remote.RemoteGang(
                asked, interface="127.0.0.1", seat=seat, is_restart=is_restart)
    attempt.load_engine = lambda name: Engine()
    asked = job.Job(workers=2, command=("script", sys.argv[1]))
    attempt.run_attempt(asked, run_dir=sys.argv[2], restart_count=0, is_restart=False,
                        deadline=1e12, stop=stop.StopRequest())
    """
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    work = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    program = launching.write_program(tmp_path, deaf + work, "work.py")
    launcher = subprocess.Popen(
        [sys.executable, launching.write_program(tmp_path, code), program, str(tmp_path)],
        env=launching.environ_with(),
        stdout=subprocess.PIPE,
        text=True,
    )
    with launcher:
        workers = [int(launcher.stdout.readline().split()[-1]) for _ in range(2)]
        launcher.kill()
        launcher.communicate(timeout=20)
    launching.wait_for(lambda: not any(map(launching.is_alive, workers)), "workers were left")
