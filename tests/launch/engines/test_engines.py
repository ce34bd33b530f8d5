"""Do all engines do the same as the engine "local", to the last bit, and leave nothing behind?

On the real engines: `pip install 'tfdist[ray,dask,spark]'` and `bash scripts/setup_engines.sh`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import launching
import pytest

from tfdist.launch.engines import ray
from tfdist.launch.job import ENGINES

_DRIVER = pathlib.Path(__file__).parents[2] / "support" / "engine_jobs.py"
_MARK = "ENGINE_TEST_MARK"  # in the environment of every process of a test
_READY = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
_OTHERS = [engine for engine in ENGINES if engine != "local"]


def _why_missing(engine):
    """Says what this machine lacks for an engine; "" where it lacks nothing."""
    package = {"ray": "ray", "dask": "distributed", "spark": "pyspark"}.get(engine)
    if package and importlib.util.find_spec(package) is None:
        return f"the package {package} is not installed: pip install 'tfdist[{engine}]'"
    program = {"mpi": "mpirun", "slurm": "srun", "spark": "java"}.get(engine)
    if program and shutil.which(program) is None:
        return f"the program {program} is not installed: bash scripts/setup_engines.sh"
    if engine == "slurm" and _run(["sinfo", "--noheader"]).returncode:
        return "Slurm's daemons do not run: bash scripts/setup_engines.sh"
    return ""


def _run(command, *, limit_secs=60, **variables):
    return subprocess.run(
        [str(part) for part in command],
        env=launching.environ_with(TF_CPP_MIN_LOG_LEVEL="2", **variables),
        capture_output=True,
        text=True,
        timeout=limit_secs,
        check=False,
    )


def _skip_where_missing(engine):
    if why := _why_missing(engine):
        pytest.skip(why)


@functools.cache
def _outcome_of(engine):
    """Runs the driver once for each engine; returns what came of each job, and all that it said."""
    mark = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, _DRIVER, engine, folder]
        done = _run(command, limit_secs=400, **{_MARK: mark})
    lines = [line for line in done.stdout.splitlines() if line.startswith("outcome ")]
    assert lines, done.stdout + done.stderr
    return json.loads(lines[0].partition(" ")[2]), done.stdout + done.stderr, _marked(mark)


def _marked(mark):
    """Command lines of the processes that have this mark in their environment."""
    found = []
    for folder in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            if f"{_MARK}={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue  # it has ended, or is somebody else's
    return found


@pytest.mark.slow
@pytest.mark.timeout(450)
@pytest.mark.parametrize("engine", ENGINES)
class TestOnEngine:
    """One driver for each engine, which all these tests look at."""

    @pytest.fixture(autouse=True)
    def _installed(self, engine):
        _skip_where_missing(engine)

    def test_values_come_in_rank_order(self, engine):
        outcome, said, _ = _outcome_of(engine)
        assert outcome["place"]["value"] == [[rank, 2, rank, 2, 2, "x"] for rank in (0, 1)]
        for rank in (0, 1):
            assert f"[worker {rank}] hello from {rank}\n" in said

    @pytest.mark.parametrize(
        ("how", "told"),
        [
            ("raises", "worker 1 failed first: exit code 1: KeyError: 'the cause'"),
            ("exits", "worker 1 failed first: exit code 3: SystemExit: 3"),
            ("is killed", "worker 1 failed first: killed by SIGKILL"),
        ],
    )
    def test_first_failure_is_named(self, engine, how, told):
        found = _outcome_of(engine)[0][how]
        assert found["error"].startswith(told)
        assert ('raise KeyError("the cause")' in found["error"]) == (how == "raises")
        assert found["secs"] < 30

    def test_killed_worker_resumes_to_the_bits_of_local_undisturbed(self, engine):
        outcome, said, _ = _outcome_of(engine)
        first, second = undisturbed = _outcome_of("local")[0]["train"]["value"]
        assert first == second
        assert first[1] == 2
        assert outcome["resume"].get("value") == undisturbed
        assert "killed by SIGKILL (the system may have run out of memory); restart 1 of 1" in said
        jobs = 1 + ("train" in outcome)
        assert said.count("[worker 0] Epoch 1/3") == jobs  # and not of the restart
        assert said.count("[worker 0] Epoch 3/3") == jobs + 1

    def test_no_process_is_left(self, engine):
        assert _outcome_of(engine)[2] == []


@pytest.mark.slow
@pytest.mark.timeout(200)
@pytest.mark.parametrize("engine", _OTHERS)
def test_command_line_starts_and_ends_what_it_needs(engine, tmp_path):
    """No cluster is there: the engines that need one make their own, and take it away again."""
    _skip_where_missing(engine)
    code = """
    import os, sys, time
    print("at work", os.environ["TFDIST_RANK"], sys.argv[1:], flush=True)
    if os.environ["TFDIST_RANK"] == "1":
        sys.exit(7)
    time.sleep(60)
    """
    path, mark = launching.write_program(tmp_path, code), uuid.uuid4().hex
    flags = [f"--engine={engine}", "--workers=2", f"--log_dir={tmp_path}/logs"]
    done = _run(
        [sys.executable, "-m", "tfdist.launch", *flags, path, "--epochs=5"],
        limit_secs=150,
        **{_MARK: mark},
    )
    assert done.returncode == 7, done.stderr
    assert "tfdist.launch: worker 1 failed first: exit code 7: SystemExit: 7" in done.stderr
    for rank in (0, 1):
        line = f"at work {rank} ['--epochs=5']"
        assert launching.lines_of(done, rank) == [line]
        assert (tmp_path / "logs" / f"worker_{rank}.log").read_text() == line + "\n"
    assert _marked(mark) == []


@pytest.mark.slow  # 7 s; mpirun alone tells whether it takes the hosts that it is given
def test_elastic_job_on_hosts_that_a_command_names(tmp_path):
    _skip_where_missing("mpi")
    code = """
    import os, pathlib, sys, time
    from tfdist.cluster import contract
    places, size = pathlib.Path(sys.argv[1]), os.environ["TFDIST_SIZE"]
    print("one of", size, flush=True)
    if size == "3":
        places.write_text("localhost:2\\n")
        deadline = time.monotonic() + 30
        while not contract.is_asked_to_leave(os.environ) and time.monotonic() < deadline:
            time.sleep(0.1)
        raise contract.Saved
    """
    path, places = launching.write_program(tmp_path, code), tmp_path / "places"
    places.write_text("localhost:3\n")
    flags = ["--engine=mpi", "--workers=2:3", f"--discover_hosts=cat {places}"]
    done = launching.launch(*flags, path, places)
    assert done.returncode == 0, done.stderr
    assert launching.lines_of(done, 1) == ["one of 3", "one of 2"]
    assert "there are places for 2 workers now, and 3 are at work" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mpi", "slurm"])
def test_told_to_stop(engine, tmp_path):
    _skip_where_missing(engine)
    path = launching.write_program(tmp_path, launching.GRANDCHILD + _READY)
    with launching.start(f"--engine={engine}", path) as launcher:
        assert "ready" in launcher.stdout.readline() + launcher.stdout.readline()
        launcher.terminate()
        _, err = launcher.communicate(timeout=30)
    assert launcher.returncode == 143
    assert err == "tfdist.launch: stopped by SIGTERM\n"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["mpi", "slurm"])
def test_killed_launcher_leaves_nobody(engine, tmp_path):
    _skip_where_missing(engine)
    mark = uuid.uuid4().hex
    code = f"import os\nos.environ[{_MARK!r}] = {mark!r}\n" + launching.GRANDCHILD
    path = launching.write_program(tmp_path, code + _READY)
    with launching.start(f"--engine={engine}", path) as launcher:
        assert "ready" in launcher.stdout.readline() + launcher.stdout.readline()
        assert _marked(mark)
        launcher.kill()
        launcher.communicate(timeout=30)
    launching.wait_for(lambda: not _marked(mark), "processes were left")


# ------------------------------------------------------------------------------ what is not there


@pytest.mark.parametrize(
    ("engine", "package"), [("ray", "ray"), ("dask", "distributed"), ("spark", "pyspark")]
)
def test_missing_package_names_the_extra(engine, package, tmp_path, capfd):
    (tmp_path / f"{package}.py").write_text(
        f"raise ModuleNotFoundError(\"No module named '{package}'\", name='{package}')\n"
    )
    path = launching.write_program(tmp_path, "print('ran')", "program.py")
    environ = launching.environ_with(PYTHONPATH=f"{tmp_path}{os.pathsep}{launching.CHECKOUT}")
    done = launching.launch(f"--engine={engine}", path, env=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"tfdist.launch: engine='{engine}' needs the package '{package}', which is not installed."
        f" Install it with the extra '{engine}': pip install 'tfdist[{engine}]'.\n"
    )


def test_a_cluster_of_ray_that_is_not_there_is_told_at_once(tmp_path):
    """With a stand-in for Ray, which would try for minutes."""
    (tmp_path / "ray.py").write_text("is_initialized = lambda: False\n")
    path = launching.write_program(tmp_path, "print('ran')", "program.py")
    environ = launching.environ_with(
        PYTHONPATH=f"{tmp_path}{os.pathsep}{launching.CHECKOUT}", RAY_ADDRESS="127.0.0.1:1"
    )
    done = launching.launch("--engine=ray", path, env=environ)
    assert (done.returncode, done.stdout) == (2, "")
    assert "RAY_ADDRESS='127.0.0.1:1' is set, and nothing listens there. Start" in done.stderr


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (b"HTTP/1.1 400 Bad\r\n\r\n", "does not answer as Ray does, or not within 20 seconds"),
        (bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), "does not answer as Ray does"),  # gRPC, and no more
    ],
)
def test_what_listens_and_is_no_cluster_of_ray_is_told(answer, told, tmp_path):
    """With a stand-in for Ray, which would try for a while."""
    code = "is_initialized = lambda: False\ndef init(**_): raise ConnectionError('no cluster ID')\n"
    (tmp_path / "ray.py").write_text(code)
    path = launching.write_program(tmp_path, "print('ran')", "program.py")

    def serve() -> None:
        with contextlib.suppress(OSError):  # the end of the test
            while True:
                connection, _ = listening.accept()
                with connection:
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=serve, daemon=True)
        server.start()
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        environ = launching.environ_with(
            PYTHONPATH=f"{tmp_path}{os.pathsep}{launching.CHECKOUT}", RAY_ADDRESS=address
        )
        done = launching.launch("--engine=ray", path, env=environ)
        listening.shutdown(socket.SHUT_RDWR)
        server.join()
    assert (done.returncode, done.stdout) == (2, "")
    assert f"RAY_ADDRESS={address!r} is set, and what listens there {told}. Start" in done.stderr


@pytest.mark.parametrize("with_tls", ["0", "1"])
def test_what_takes_connections_and_says_nothing_is_told_in_time(monkeypatch, with_tls):
    monkeypatch.setenv("RAY_USE_TLS", with_tls)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"127.0.0.1:{listening.getsockname()[1]}"
        began = time.monotonic()
        with pytest.raises(RuntimeError, match=f"'{address}' is set, .* within 0.5 seconds. Start"):
            ray.refuse_silent(address, within_secs=0.5)
        assert 0.5 <= time.monotonic() - began < 10


def test_a_name_of_a_cluster_of_ray_without_a_port_is_not_asked():
    assert ray.refuse_silent("auto", within_secs=0.1) is None


@pytest.mark.parametrize(
    ("engine", "program", "package"),
    [("mpi", "mpirun", "openmpi-bin"), ("slurm", "srun", "slurm-client")],
)
def test_missing_program_names_the_package(engine, program, package, tmp_path):
    path = launching.write_program(tmp_path, "print('ran')")
    done = launching.launch(
        f"--engine={engine}", path, env=launching.environ_with(PATH=str(tmp_path))
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert f"The program {program} is not on PATH" in done.stderr
    assert f"apt-get install {package} brings it" in done.stderr


@pytest.mark.parametrize(
    ("engine", "variables"),
    [
        ("mpi", {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"}),
        ("slurm", {"SLURM_STEP_NODELIST": "n[1-2]", "SLURM_STEP_NUM_TASKS": "2"}),
    ],
)
def test_launcher_inside_a_job_of_the_engine_is_refused(engine, variables, tmp_path):
    path = launching.write_program(tmp_path, "print('ran')")
    done = launching.launch(f"--engine={engine}", path, env=launching.environ_with(**variables))
    assert (done.returncode, done.stdout) == (2, "")
    assert "Run the program there without the launcher" in done.stderr
