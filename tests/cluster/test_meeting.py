"""Do workers that somebody else has started find each other, and train as under our launcher?

Environments that cannot run here are two local processes with faithful sets of their variables.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import textwrap
import uuid

import launching
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist.cluster import contract, meeting
from tfdist.cluster.detection import Cluster
from tfdist.cluster.meeting import find_address, meet
from tfdist.cluster.ports import reserved_port

_JOB = pathlib.Path(__file__).parents[1] / "support" / "engine_jobs.py"
_MEET = textwrap.dedent(
    """
    import json, tfdist
    from tfdist.cluster.meeting import meet
    found = meet(tfdist.detect_cluster())
    assert meet(tfdist.detect_cluster()) == found  # the second time nobody else is there
    print("met", json.dumps([found.rank, found.local_rank, found.local_size, found.addresses]))
    """
)


def _open_mpi(rank):
    return {
        "OMPI_COMM_WORLD_RANK": f"{rank}",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": f"{rank}",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
        "OMPI_MCA_orte_precondition_transports": "4b5404db9f97883e-d9d38f4cae2fec26",
        "PMIX_NAMESPACE": "753729537",
        "PMIX_RANK": f"{rank}",
    }


def _torchrun(rank):
    return {
        "RANK": f"{rank}",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": f"{rank}",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
        "TORCHELASTIC_RUN_ID": "none",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def _kubeflow(rank):
    """The torch-distributed runtime of a TrainJob."""
    return {
        "PET_NODE_RANK": f"{rank}",
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": "29400",
    }


def _intel_mpi(rank):
    return {
        "PMI_RANK": f"{rank}",
        "PMI_SIZE": "2",
        "MPI_LOCALRANKID": f"{rank}",
        "MPI_LOCALNRANKS": "2",
    }


def _mvapich(rank):
    return {
        "MV2_COMM_WORLD_RANK": f"{rank}",
        "MV2_COMM_WORLD_SIZE": "2",
        "MV2_COMM_WORLD_LOCAL_RANK": f"{rank}",
        "MV2_COMM_WORLD_LOCAL_SIZE": "2",
    }


def _kubernetes(rank):
    return {
        "KUBERNETES_SERVICE_HOST": "10.96.0.1",
        "JOB_COMPLETION_INDEX": f"{rank}",
        "TFDIST_NUM_WORKERS": "2",
        "TFDIST_RENDEZVOUS": "127.0.0.1:{port}",
    }


def _azure_ml(rank):
    """A job of its MPI distribution, one process on each of two nodes."""
    return {
        "OMPI_COMM_WORLD_RANK": f"{rank}",
        "OMPI_COMM_WORLD_SIZE": "2",
        "OMPI_COMM_WORLD_LOCAL_RANK": "0",
        "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
        "AZ_BATCH_MASTER_NODE": "127.0.0.1:6000",
        "AZUREML_NODE_COUNT": "2",
    }


def _vertex_ai(rank):
    pools = {"workerpool0": ["127.0.0.1:{port}"], "workerpool1": ["127.0.0.1:{port2}"]}
    task = {"type": f"workerpool{rank}", "index": 0, "trial": ""}
    return {"CLUSTER_SPEC": json.dumps({"cluster": pools, "task": task, "environment": "cloud"})}


def _slurm(rank):
    return {
        "SLURM_JOB_ID": "{port}",
        "SLURM_STEP_ID": "0",
        "SLURM_PROCID": f"{rank}",
        "SLURM_NTASKS": "2",
        "SLURM_STEP_NUM_TASKS": "2",
        "SLURM_LOCALID": f"{rank}",
        "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_TASKS_PER_NODE": "2",
    }


def _azure_ml_tensorflow(rank):
    """Azure ML's TensorFlow distribution, and Kubeflow's TFJob, set TF_CONFIG."""
    config = {
        "cluster": {"worker": ["127.0.0.1:{port}", "127.0.0.1:{port2}"]},
        "task": {"type": "worker", "index": rank},
        "environment": "cloud",
    }
    return {"TF_CONFIG": json.dumps(config), "AZUREML_NODE_COUNT": "2"}


def _jsrun(rank):
    return {
        "LSB_JOBID": "4711",
        "JSM_NAMESPACE_RANK": f"{rank}",
        "JSM_NAMESPACE_SIZE": "2",
        "JSM_NAMESPACE_LOCAL_RANK": "0",
        "JSM_NAMESPACE_LOCAL_SIZE": "1",
        "LSB_DJOB_RANKFILE": "{folder}/rankfile",
    }


_ENVIRONMENTS = [
    _open_mpi,
    _torchrun,
    _kubeflow,
    _intel_mpi,
    _mvapich,
    _kubernetes,
    _azure_ml,
    _vertex_ai,
    _slurm,
    _azure_ml_tensorflow,
    _jsrun,
]


def _in_each(environments):
    return pytest.mark.parametrize("variables", environments, ids=lambda fn: fn.__name__.strip("_"))


def _run_both(command, variables, folder, *, limit_secs=60, **further):
    """Runs two processes with the variables of rank 0 and 1; returns what each has printed."""
    (folder / "rankfile").write_text("login\n127.0.0.1\n127.0.0.1\n")
    with contextlib.ExitStack() as stack:
        ports = [stack.enter_context(reserved_port()) for _ in range(2)]
    values = {"port": str(ports[0]), "port2": str(ports[1]), "folder": str(folder)}
    processes = []
    for rank in (0, 1):
        environ = launching.environ_with(TFDIST_ROLL_CALL_SECS="40", **further)
        for name, text in variables(rank).items():
            for key, value in values.items():
                text = text.replace("{" + key + "}", value)
            environ[name] = text
        processes.append(
            subprocess.Popen(
                [sys.executable, *map(str, command)],
                env=environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
    try:
        said = [process.communicate(timeout=limit_secs) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert [process.returncode for process in processes] == [0, 0], said
    return [out for out, _ in said]


@_in_each(_ENVIRONMENTS)
def test_both_learn_both_addresses(variables, tmp_path):
    said = _run_both(["-c", _MEET], variables, tmp_path)
    ranks = [json.loads(out.partition("met ")[2]) for out in said]
    assert [found[:3] for found in ranks] == [[0, 0, 2], [1, 1, 2]]
    assert ranks[0][3] == ranks[1][3]
    assert len(set(ranks[0][3])) == 2


_THREADS = dict.fromkeys(
    ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1"
)


@functools.cache
def _trained_by_our_launcher():
    done = launching.launch("--threads=1", _JOB, "train", limit_secs=150)
    assert done.returncode == 0, done.stderr
    return launching.lines_of(done, 0)[-1]


# Where they have met, a worker's place is the same fact whoever has set its variables. So one
# environment is trained in for each way of meeting; the two real launchers are below.
@pytest.mark.slow
@pytest.mark.timeout(300)
@_in_each([_torchrun, _kubernetes, _vertex_ai, _azure_ml_tensorflow])
def test_training_equals_that_under_our_launcher(variables, tmp_path):
    said = _run_both([_JOB, "train"], variables, tmp_path, limit_secs=120, **_THREADS)
    assert [out.splitlines()[-1] for out in said] == [_trained_by_our_launcher()] * 2


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "command",
    [
        ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none", "-n", "2"],
        ["srun", "--overcommit", "--ntasks=2", "--cpu-bind=none"],
    ],
    ids=["mpirun", "srun"],
)
def test_under_the_real_one(command):
    if shutil.which(command[0]) is None:
        pytest.skip(f"{command[0]} is not installed: bash scripts/setup_engines.sh")
    mark = uuid.uuid4().hex
    done = subprocess.run(
        [*command, sys.executable, str(_JOB), "train"],
        env=launching.environ_with(TFDIST_SECRET=mark, TFDIST_ROLL_CALL_SECS="40", **_THREADS),
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = [line for line in done.stdout.splitlines() if line.startswith("trained")]
    assert found == [_trained_by_our_launcher()] * 2


# ------------------------------------------------------------------------------- where to meet


def _cluster(**changes):
    return Cluster(**{"rank": 1, "size": 2, "source": "Open MPI", **changes})


@pytest.mark.parametrize(
    ("cluster", "environ", "host"),
    [
        (_cluster(local_size=2), {}, "127.0.0.1"),
        (_cluster(source="torchrun"), {"MASTER_ADDR": "node1"}, "node1"),
        (_cluster(), {"AZ_BATCH_MASTER_NODE": "10.0.0.4:6000"}, "10.0.0.4"),
        (_cluster(), {"TFDIST_RENDEZVOUS": "node7:9"}, "node7"),
        (_cluster(), {"TFDIST_RENDEZVOUS": "[fd00::2]:9"}, "fd00::2"),
        (_cluster(local_size=2), {"TFDIST_RENDEZVOUS": "node7:9"}, "node7"),
    ],
)
def test_host_to_meet_at(cluster, environ, host):
    found, ports = find_address(cluster, environ)
    assert found == host
    assert ports == (9,) if "TFDIST_RENDEZVOUS" in environ else len(set(ports)) == 8


def test_jobs_on_one_host_meet_at_different_ports():
    jobs = [{"PMIX_NAMESPACE": f"{number}"} for number in range(20)]
    assert len({find_address(_cluster(local_size=2), job)[1] for job in jobs}) > 15


def test_unknown_place_is_an_error():
    with pytest.raises(RuntimeError, match=r"worker 1 of 2, but not.*TFDIST_RENDEZVOUS=HOST:PORT"):
        find_address(_cluster(), {})


def test_wrong_place_is_an_error():
    with pytest.raises(ValueError, match="In TFDIST_RENDEZVOUS, 'node1' has no port"):
        find_address(_cluster(), {"TFDIST_RENDEZVOUS": "node1"})


@pytest.mark.parametrize(
    "cluster",
    [
        None,
        Cluster(rank=0, size=1),
        Cluster(rank=1, size=2, addresses=("a:1", "b:1")),
        Cluster(rank=0, size=1, task_type="evaluator"),
    ],
)
def test_nothing_to_do(cluster):
    assert meet(cluster) is cluster


def test_port_of_somebody_else_is_passed_over(tmp_path):
    """The first port that both work out is taken by a program that says nothing."""
    host, ports = find_address(_cluster(rank=0, local_size=2), _open_mpi(0))
    with socket.create_server((host, ports[0])):
        said = _run_both(["-c", _MEET], _open_mpi, tmp_path)
    assert all(out.startswith("met ") for out in said)


def test_who_does_not_come_is_named(tmp_path):
    environ = launching.environ_with(**_mvapich(0), TFDIST_ROLL_CALL_SECS="1")
    done = subprocess.run(
        [sys.executable, "-c", _MEET],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "worker 1 has not come within timeout_secs=1 (1 of 2 came)" in done.stderr
    assert os.environ.get("TFDIST_ROLL_CALL_SECS") is None


@pytest.mark.parametrize("secs", ["nan", "inf", "1e10", "0"])
def test_time_for_the_roll_call_that_cannot_be(monkeypatch, secs):
    monkeypatch.setenv(contract.ROLL_CALL_SECS, secs)
    with pytest.raises(ValueError, match=f"^{contract.ROLL_CALL_SECS}='{secs}' must be a number"):
        meeting.meet(Cluster(rank=0, size=2, local_size=2))


@given(
    st.dictionaries(
        st.sampled_from(
            ["TFDIST_RENDEZVOUS", "MASTER_ADDR", "PET_MASTER_ADDR", "AZ_BATCH_MASTER_NODE"]
        ),
        st.text(max_size=80) | st.sampled_from(["a:1", "[::1]:2", "::1", ":", "a:", ":1", "..:1"]),
    ),
    st.sampled_from(["torchrun", "jsrun", "PMI"]),
)
@settings(max_examples=80)
def test_any_place_to_meet_is_read_or_refused(environ, source):
    try:
        host, ports = find_address(Cluster(rank=1, size=2, source=source), environ)
    except (ValueError, RuntimeError):
        return
    assert host
    host.encode("idna")  # the system can look it up
    assert all(0 < port < 65536 for port in ports)


@pytest.mark.parametrize("host", ["a..b", "a" * 64, "x y"])
def test_host_of_the_first_worker_that_is_no_name(host):
    cluster = Cluster(rank=1, size=2, source="torchrun")
    with pytest.raises(ValueError, match=r"In MASTER_ADDR='.*', .*; correct it"):
        meeting.find_address(cluster, {"MASTER_ADDR": host})
