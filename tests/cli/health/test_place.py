"""Does the doctor say what an environment means, and what is wrong with it?

Through scripts/doctor.py, which is the command itself.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys

import launching
import pytest

from tfdist.cli.health import place

_SCRIPT = launching.CHECKOUT / "scripts" / "doctor.py"
_WORKERS = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
_SLURM = """\
SLURM_JOB_ID=7
SLURM_STEP_ID=0
SLURM_PROCID=2
SLURM_STEP_NUM_TASKS=3
SLURM_STEP_NODELIST=n[2,10]
SLURM_STEP_TASKS_PER_NODE=2,1
PMI_SIZE=3
PMI_RANK=2
LSB_JOBID=1
"""


def _run(tmp_path, *arguments, **variables):
    """Runs the doctor where importing TensorFlow or Keras fails."""
    for name in ("tensorflow", "keras"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('it was imported')")
    environ = launching.environ_with(**variables)
    environ["PYTHONPATH"] = f"{tmp_path}{os.pathsep}{launching.CHECKOUT}"
    return subprocess.run(
        [sys.executable, str(_SCRIPT), *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("dump", "code", "told"),
    [
        ("HOME=/root\n", 0, ["TF_CONFIG: not set", "No cluster: this process would train alone."]),
        (
            f"TF_CONFIG={_WORKERS}\n",
            0,
            ["TF_CONFIG: used: rank 1 of 2 at b:1", f"TF_CONFIG: {_WORKERS}"],
        ),
        (
            _SLURM,
            0,
            [
                "Slurm: used: rank 2 of 3 at n10:2",
                "jsrun: ignored: an LSF job, but not started by jsrun",
                "PMI: agrees: rank 2 of 3",
                "worker 2, rank 2 of 3, 0 of 1 on its host, by Slurm.",
                '"worker": ["n2:2',
            ],
        ),
        (
            "OMPI_COMM_WORLD_RANK=0\nOMPI_COMM_WORLD_SIZE=2\nOMPI_COMM_WORLD_LOCAL_SIZE=2\n",
            0,
            ["will meet at 127.0.0.1:", '"task": {"type": "worker", "index": 0}'],
        ),
        (
            "OMPI_COMM_WORLD_RANK=0\nOMPI_COMM_WORLD_SIZE=2\n",
            1,
            ["Open MPI: used: rank 0 of 2", "ERROR: Open MPI says", "Set TFDIST_RENDEZVOUS="],
        ),
        (
            f"TF_CONFIG={_WORKERS}\nOMPI_COMM_WORLD_RANK=0\nOMPI_COMM_WORLD_SIZE=4\n",
            1,
            ["ERROR: Two environments disagree: TF_CONFIG says rank 1 of 2", "rank 0 of 4"],
        ),
        ("TF_CONFIG={'cluster'}\n", 1, ["ERROR: TF_CONFIG is no valid JSON"]),
    ],
)
def test_dump_is_explained(tmp_path, dump, code, told):
    (tmp_path / "dump.txt").write_text(dump)
    done = _run(tmp_path, f"--environ={tmp_path}/dump.txt")
    assert (done.returncode, done.stderr) == (code, "")
    for text in told:
        assert text in done.stdout


def test_own_environment_is_the_default(tmp_path):
    done = _run(tmp_path, "--notrial", TF_CONFIG=_WORKERS)
    assert "rank 1 of 2" in done.stdout


@pytest.mark.parametrize(
    ("dump", "told"), [(None, "No such file"), ("hello\n", "where NAME=VALUE is needed")]
)
def test_unreadable_dump(tmp_path, dump, told):
    path = tmp_path / "dump.txt"
    if dump is not None:
        path.write_text(dump)
    done = _run(tmp_path, f"--environ={path}")
    assert done.returncode == 2
    assert told in done.stderr
    assert "Traceback" not in done.stderr


_VALUES = {"A": "1", "TF_CONFIG": _WORKERS, "EMPTY": "", "EQUALS": "a=b", "QUOTED": 'say "no"'}


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda v: "".join(f"{n}={t}\n" for n, t in v.items()), id="env"),
        pytest.param(lambda v: "".join(f"{n}={t}\0" for n, t in v.items()), id="env -0"),
        pytest.param(json.dumps, id="JSON"),
    ],
)
def test_forms_of_a_dump(write):
    assert place.read_dump(write(_VALUES)) == _VALUES


@pytest.mark.parametrize("command", ["export -p", "declare -x"])
def test_what_a_shell_prints(command):
    done = subprocess.run(
        ["bash", "-c", command], env=_VALUES, capture_output=True, text=True, timeout=20, check=True
    )
    found = place.read_dump(done.stdout)
    assert {name: found[name] for name in _VALUES} == _VALUES


def test_values_of_several_lines():
    dump = 'TF_CONFIG={"cluster":\n  {"worker": ["a:1"]}}\nHOME=/root\n'
    found = place.read_dump(dump)
    assert json.loads(found["TF_CONFIG"]) == {"cluster": {"worker": ["a:1"]}}
    assert found["HOME"] == "/root"


def test_it_looks_for_a_tpu():
    done = subprocess.run(
        [sys.executable, _SCRIPT, "--tpu"], capture_output=True, text=True, timeout=60, check=False,
        env=launching.environ_with(),
    )
    assert done.returncode == 0, done.stderr
    assert "TPU" in done.stdout


def test_names_and_ports_of_a_cluster_are_tried():
    def links(host, port=0):
        workers = ["127.0.0.1:29999", f"{host}:{port or 29998}"]
        config = {"cluster": {"worker": workers}, "task": {"type": "worker", "index": 1}}
        return place.look_at_links({"TF_CONFIG": json.dumps(config)})

    lines, is_fine = links("localhost")
    assert is_fine
    assert lines[0] == "worker 0: 127.0.0.1:29999 is 127.0.0.1"
    assert "this one, its port is free" in lines[1]
    lines, is_fine = links("no-such-host.invalid")
    assert not is_fine
    assert "ERROR: the name 'no-such-host.invalid' is not known here" in lines[1]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lines, is_fine = links("127.0.0.1", taken.getsockname()[1])
    assert not is_fine
    assert "ERROR: its port cannot be taken" in lines[1]


def test_without_a_cluster_there_are_no_links():
    assert place.look_at_links({}) == ([], True)
