"""Do the workers start with the right rank, and is a worker that does not join named?

The workers here are real processes; most of their programs import no TensorFlow, to be quick.
What no test says again: whatever happens, no process may be left (conftest.py looks).
"""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys

import launching
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist import testing
from tfdist.launch import __main__ as command
from tfdist.launch.job import Job, count_cores


@pytest.fixture
def program(tmp_path):
    """Writes a program; returns its path."""
    return functools.partial(launching.write_program, tmp_path)


# -------------------------------------------------------------------------------- a right start

_SHOW = """
import json, os, sys
names = ["TF_CONFIG", "TFDIST_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS",
         "OMP_NUM_THREADS", "TFDIST_RESTART_COUNT", "TFDIST_ADDRESSES"]
import __main__
print(json.dumps({"argv": sys.argv, "name": __name__, "file": __file__, "path": sys.path[0],
                  "is_main": vars(__main__) is globals(), "modules": sorted(sys.modules),
                  **{name: os.environ.get(name) for name in names}}))
"""


def test_each_worker_has_its_rank(program, tmp_path):
    path = program(_SHOW)
    done = launching.launch(
        "--workers=3", "program.py", "--workers=9", "-m", "--", "x y", cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    shown = [json.loads(launching.lines_of(done, rank)[0]) for rank in range(3)]
    configs = [json.loads(worker["TF_CONFIG"]) for worker in shown]
    assert [config["task"] for config in configs] == [
        {"type": "worker", "index": rank} for rank in range(3)
    ]
    [addresses] = {tuple(config["cluster"]["worker"]) for config in configs}
    assert len(set(addresses)) == 3
    assert all(address.startswith("127.0.0.1:") for address in addresses)
    for worker in shown:
        assert worker["argv"] == ["program.py", "--workers=9", "-m", "--", "x y"]
        assert (worker["name"], worker["is_main"]) == ("__main__", True)
        assert worker["file"] == path
        assert worker["path"] == str(tmp_path)
        assert worker["TFDIST_ADDRESSES"] == ",".join(addresses)
        assert worker["TFDIST_RESTART_COUNT"] == "0"
        assert not {"tensorflow", "keras", "numpy", "cloudpickle"} & set(worker["modules"])


def test_one_worker_has_no_tf_config(program):
    done = launching.launch("--workers=1", program(_SHOW))
    assert done.returncode == 0
    assert json.loads(launching.lines_of(done, 0)[0])["TF_CONFIG"] is None


@pytest.mark.parametrize(
    ("arguments", "threads"),
    [(["--threads=3"], 3), ([], max(1, count_cores() // 2))],
)
def test_threads_are_fixed(program, arguments, threads):
    done = launching.launch(*arguments, program(_SHOW))
    for rank in range(2):
        shown = json.loads(launching.lines_of(done, rank)[0])
        assert {value for name, value in shown.items() if "THREADS" in name} == {str(threads)}


def test_sets_have_one_order_on_all_workers(program):
    done = _launch_with_hash_seed(program("print(hash('x'))"), None)
    assert launching.lines_of(done, 0) == launching.lines_of(done, 1)
    other = _launch_with_hash_seed(program("print(hash('x'))"), "7")  # the user's word holds
    assert launching.lines_of(other, 0) == launching.lines_of(other, 1)
    assert launching.lines_of(other, 0) != launching.lines_of(done, 0)


def _launch_with_hash_seed(path, seed):
    environ = launching.environ_with()
    environ.pop("PYTHONHASHSEED", None)
    return launching.launch(path, env=environ | ({"PYTHONHASHSEED": seed} if seed else {}))


def test_worker_may_use_multiprocessing(program):
    code = """
    import multiprocessing, os
    def square(x):
        return x * x
    if __name__ == "__main__":
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.map(square, [1, 2, 3]))
    """
    done = launching.launch("--workers=1", program(code))
    assert launching.lines_of(done, 0) == ["[1, 4, 9]"]


def test_module_as_program(program, tmp_path):
    program("", "package/__init__.py")
    path = program(_SHOW, "package/tool.py")
    done = launching.launch("-m", "package.tool", "--epochs=5", cwd=tmp_path)
    shown = json.loads(launching.lines_of(done, 1)[0])
    assert shown["argv"] == [path, "--epochs=5"]
    assert shown["path"] == str(tmp_path)


def test_folder_as_program(program, tmp_path):
    program("import sys; print(__name__, sys.path[0])", "folder/__main__.py")
    done = launching.launch("folder", cwd=tmp_path)
    assert launching.lines_of(done, 1) == ["__main__ folder"]


def test_from_a_checkout_that_is_not_installed(program, tmp_path):
    """The workers have to find tfdist again, wherever the launcher has found it."""
    starter = """
    import sys
    sys.path.insert(0, sys.argv.pop(1))
    from tfdist.launch.__main__ import main
    sys.exit(main())
    """
    environ = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [
            sys.executable,
            program(starter, "launch/engines/starter.py"),
            str(launching.CHECKOUT),
            program("import os, tfdist.cluster.detection; print(os.environ['PYTHONPATH'])"),
        ],
        cwd=tmp_path,
        env=environ,
        capture_output=True,
        text=True,
        timeout=launching.LIMIT_SECS,
        check=True,
    )
    for rank in (0, 1):
        assert launching.lines_of(done, rank) == [str(launching.CHECKOUT)]


def test_variables_of_other_launchers_are_not_handed_on(program):
    outside = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
    done = launching.launch(
        "--workers=1",
        program(_SHOW),
        env=launching.environ_with(TF_CONFIG=outside, TFDIST_SIZE="9"),
    )
    assert json.loads(launching.lines_of(done, 0)[0])["TF_CONFIG"] is None
    assert "not passed on to them: TF_CONFIG" in done.stderr


def test_main_stays_there_for_threads_and_exit_functions(program):
    code = """
    import atexit, sys, threading, time
    def tell(what):
        import __main__
        print(what, __main__.tell is tell, flush=True)
    atexit.register(tell, "at exit")
    threading.Timer(0.1, tell, ["in thread"]).start()
    """
    done = launching.launch("--workers=1", program(code))
    assert launching.lines_of(done, 0) == ["in thread True", "at exit True"]


# ------------------------------------------------------------------------------- wrong requests


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workers=0", "{script}"], "workers=0 must be a whole number from 1."),
        (["--workers=two", "{script}"], "workers='two' must be a whole number from 1, or MIN:MAX"),
        (["--engine=banana", "{script}"], "engine='banana' is unknown; use one of ('local', 'mpi'"),
        (["--threads=0", "{script}"], "threads=0 must be a whole number from 1."),
        (["--max_restarts=-1", "{script}"], "max_restarts=-1 must be a whole number from 0."),
        (["--timeout_secs=0", "{script}"], "timeout_secs=0.0 must be a number of seconds above 0"),
        (["--grace_secs=nan", "{script}"], "grace_secs=nan must be a number of seconds above 0"),
        (["--roll_call_secs=inf", "{script}"], "roll_call_secs=inf must be a number of seconds"),
        (["--roll_call_secs=1e10", "{script}"], "roll_call_secs=10000000000.0 must be a number of"),
        (["--workers=100000", "{script}"], "workers=100000 need some 400032 open files"),
        (["--bogus=1", "{script}"], "Unknown command line flag 'bogus'"),
        (["--work=2", "{script}"], "Unknown command line flag 'work'. Did you mean: workers ?"),
        (["missing.py"], "script='missing.py' is not there"),
        ([], "the script is missing"),
        (["--log_dir={script}/logs", "{script}"], "cannot be written to"),
        (["--log_dir=/dev/null", "{script}"], "cannot be written to"),
    ],
)
def test_wrong_flags(program, capfd, arguments, message):
    path = program("print('ran')")
    try:
        code = command.main([argument.format(script=path) for argument in arguments])
    except SystemExit as error:
        code = error.code
    out, err = capfd.readouterr()
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_log_that_cannot_be_written_is_told_before_anything_starts(program, tmp_path):
    (tmp_path / "worker_1.log").mkdir()
    done = launching.launch(f"--log_dir={tmp_path}", program("print('ran')"))
    assert (done.returncode, done.stdout) == (2, "")
    assert f"log_dir={str(tmp_path)!r} cannot be written to" in done.stderr
    assert "Traceback" not in done.stderr


def test_too_few_open_files_for_so_many_workers_are_told(program):
    command = f"ulimit -n 64; exec {sys.executable} -m tfdist.launch --workers=32 "
    done = subprocess.run(
        ["sh", "-c", command + program("print('ran')")], env=launching.environ_with(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "tfdist.launch: workers=32 need some 160 open files in the launcher, and its limit is 64;"
        " raise it (ulimit -n), or start fewer workers.\n"
    )


def test_more_open_files_are_asked_for_where_the_system_allows_them(program):
    command = f"ulimit -Sn 40; exec {sys.executable} -m tfdist.launch --workers=3 "  # of some 44
    done = subprocess.run(
        ["sh", "-c", command + program("print('ran')")], env=launching.environ_with(),
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout.count("ran")) == (0, 3), done.stderr


def test_no_room_for_temporary_files_is_told(program, tmp_path):
    (tmp_path / "file").touch()
    code = "import tempfile; tempfile.tempdir = {!r}; from tfdist.launch import __main__ as m; " \
        "import sys; sys.exit(m.main([{!r}]))"
    code = code.format(str(tmp_path / "file"), program("print('ran')"))
    done = subprocess.run(
        [sys.executable, "-c", code], env=launching.environ_with(), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("tfdist.launch: the job cannot be run here: [Errno 20]")


@given(
    st.dictionaries(
        st.sampled_from(
            ["workers", "threads", "max_restarts", "timeout_secs", "roll_call_secs", "stall_secs",
             "grace_secs", "save_secs", "backoff_secs", "engine", "output"]
        ),
        st.integers() | st.floats() | st.text(max_size=5) | st.booleans() | st.none(),
        max_size=4,
    )
)  # fmt: skip
@settings(max_examples=100)
def test_any_flags_make_a_job_or_are_refused(flags):
    try:
        job = Job(**{"workers": 2, **flags})
    except ValueError as error:
        assert any(name in str(error) for name in flags)
        return
    assert job.workers > 0
    assert 0 < job.roll_call_secs <= 1e6


def test_help_names_every_flag(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["--help"])
    text = capsys.readouterr().out
    for flag in ("workers", "engine", "threads", "max_restarts", "log_dir", "roll_call_secs"):
        assert f"--{flag}" in text
    assert "belongs to the script" in text


# ---------------------------------------------------------------------------------- the roll call


@pytest.mark.parametrize(
    ("at_start", "code", "told"),
    [
        ("os._exit(0)", 1, "worker 1 failed first: it ended with exit code 0 before it had joined"),
        ("os._exit(6)", 6, "worker 1 failed first: exit code 6"),
        ("time.sleep(60)", 1, "worker 1 has not come within timeout_secs=2 (1 of 2 came)"),
    ],
)
def test_one_that_does_not_join_is_named(program, tmp_path, at_start, code, told):
    rule = f"import os, time\nif os.environ.get('TFDIST_RANK') == '1':\n    {at_start}\n"
    program(rule, "start/sitecustomize.py")
    environ = launching.environ_with(PYTHONPATH=f"{tmp_path}/start{os.pathsep}{launching.CHECKOUT}")
    arguments = ["--roll_call_secs=2", "--max_restarts=5", program("print('ran')")]
    done = launching.launch(*arguments, env=environ)
    assert done.returncode == code
    assert told in done.stderr
    assert "ran" not in done.stdout
    assert "restart" not in done.stderr  # it would not start the next time either


def test_workers_with_other_versions_are_not_let_in(program, tmp_path):
    rule = (
        "import os, platform\n"
        "if os.environ.get('TFDIST_RANK') == '1':\n"
        "    platform.python_version = lambda: '3.0'\n"
    )
    program(rule, "start/sitecustomize.py")
    environ = launching.environ_with(PYTHONPATH=f"{tmp_path}/start{os.pathsep}{launching.CHECKOUT}")
    done = launching.launch(program("print('ran')"), env=environ)
    assert done.returncode == 1
    assert "python: " in done.stderr
    assert "'3.0' on worker 1" in done.stderr
    assert "ran" not in done.stdout


def test_no_secret_on_any_command_line(program):
    code = """
    import os, pathlib
    own = pathlib.Path("/proc/self/cmdline").read_bytes()
    launcher = pathlib.Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
    print(len(os.environ["TFDIST_SECRET"]), os.environ["TFDIST_SECRET"].encode() in own + launcher)
    """
    assert launching.lines_of(launching.launch(program(code)), 0) == ["64 False"]


# ---------------------------------------------------------------------------- with TensorFlow


@pytest.mark.slow
def test_two_workers_reduce_together(program):
    """The whole way of a user's program: the launcher's TF_CONFIG is what TensorFlow expects."""
    code = """
    import tensorflow as tf
    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    rank = strategy.cluster_resolver.task_id
    def replica():
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.constant(10.0 ** rank))
    print("sum", float(strategy.run(tf.function(replica))), strategy.num_replicas_in_sync)
    """
    done = launching.launch(program(code), env=launching.environ_with(TF_CPP_MIN_LOG_LEVEL="2"))
    assert done.returncode == 0, done.stderr
    assert [launching.lines_of(done, rank)[-1] for rank in (0, 1)] == ["sum 11.0 2"] * 2


@pytest.mark.slow
def test_run_reduces_over_workers():
    assert testing.run_workers(_reduce_ranks, workers=2) == [(1.0, 2), (1.0, 2)]


def _reduce_ranks():
    import tensorflow as tf

    from tfdist.cluster import detection

    cluster = detection.detect_cluster()
    strategy = tf.distribute.MultiWorkerMirroredStrategy()

    def replica():
        rank = tf.constant(float(cluster.rank))
        return tf.distribute.get_replica_context().all_reduce("SUM", rank)

    return float(strategy.run(tf.function(replica))), strategy.num_replicas_in_sync
