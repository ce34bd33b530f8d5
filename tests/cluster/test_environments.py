"""Does every launcher's set of variables give the place that it means?

The sets are those that the launchers really write, as far as they matter here.
"""

from __future__ import annotations

import contextlib
import json
import time
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tfdist.cluster import environments
from tfdist.cluster.detection import detect_cluster

SLURM = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_ID": "0",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "2",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NODELIST": "n[2,10-11]",
    "SLURM_STEP_TASKS_PER_NODE": "2,1(x2)",
}
FIRST_PORT = 20000 + 77 * 101
TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "n1",
    "MASTER_PORT": "29400",
}
SAGEMAKER = {"SM_HOSTS": '["algo-2", "algo-1", "algo-10"]', "SM_CURRENT_HOST": "algo-2"}
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "2",
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_LOCAL_RANK": "0",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}
MVAPICH = {name.replace("OMPI_", "MV2_"): value for name, value in OPEN_MPI.items()}
INTEL_MPI = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"}
CRAY = {"PMI_RANK": "1", "PMI_SIZE": "4", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "4"}
JSRUN = {
    "LSB_JOBID": "9",
    "JSM_NAMESPACE_RANK": "1",
    "JSM_NAMESPACE_SIZE": "2",
    "JSM_NAMESPACE_LOCAL_RANK": "0",
}
KUBERNETES = {
    "KUBERNETES_SERVICE_HOST": "10.0.0.1",
    "JOB_COMPLETION_INDEX": "1",
    "TFDIST_NUM_WORKERS": "3",
}
VERTEX = {
    "CLUSTER_SPEC": json.dumps(
        {
            "cluster": {
                "workerpool0": ["cmle-training-workerpool0-ab-0:2222"],
                "workerpool1": ["cmle-training-workerpool1-ab-0:2222"],
                "workerpool3": ["cmle-training-workerpool3-ab-0:2222"],
            },
            "task": {"type": "workerpool1", "index": 0, "trial": "x"},
            "environment": "cloud",
        }
    )
}


@pytest.mark.parametrize(
    ("source", "environ", "expected"),
    [
        ("torchrun", TORCHRUN, (5, 8, 1, 4)),
        (
            "torchrun",
            {"PET_NODE_RANK": "1", "PET_NNODES": "2", "PET_MASTER_ADDR": "a"},
            (1, 2, 0, 1),
        ),
        ("SageMaker", SAGEMAKER, (2, 3, 0, 1)),
        ("Vertex AI", VERTEX, (1, 2, 0, 1)),
        ("Slurm", SLURM, (3, 4, 0, 1)),
        ("Slurm", {**SLURM, "SLURM_PROCID": "1", "SLURM_NODEID": "0"}, (1, 4, 1, 2)),
        ("jsrun", JSRUN, (1, 2, 0, 1)),
        ("Open MPI", OPEN_MPI, (2, 4, 0, 2)),
        ("MVAPICH2", MVAPICH, (2, 4, 0, 2)),
        ("PMI", INTEL_MPI, (1, 4, 1, 2)),
        ("PMI", CRAY, (1, 4, 1, 4)),
        ("PMI", {"PMI_RANK": "0", "PMI_SIZE": "1"}, (0, 1, 0, 1)),
        ("Kubernetes", KUBERNETES, (1, 3, 0, 1)),
    ],
)
def test_place(source, environ, expected):
    found, lines = detect_cluster(environ, explain=True)
    assert (found.rank, found.size, found.local_rank, found.local_size) == expected
    assert found.source == source
    assert [line for line in lines if "used" in line] == [
        line for line in lines if line.startswith(f"{source}: used: rank {expected[0]}")
    ]


@pytest.mark.parametrize(
    ("environ", "addresses"),
    [
        (
            SLURM,
            [f"n2:{FIRST_PORT}", f"n2:{FIRST_PORT + 1}", f"n10:{FIRST_PORT}", f"n11:{FIRST_PORT}"],
        ),
        (
            {**SLURM, "SLURM_DISTRIBUTION": "cyclic", "SLURM_NODEID": "0", "SLURM_LOCALID": "1"},
            [f"n2:{FIRST_PORT}", f"n10:{FIRST_PORT}", f"n11:{FIRST_PORT}", f"n2:{FIRST_PORT + 1}"],
        ),
        (SAGEMAKER, ["algo-1:2223", "algo-10:2223", "algo-2:2223"]),
        (
            VERTEX,
            ["cmle-training-workerpool0-ab-0:2222", "cmle-training-workerpool1-ab-0:2222"],
        ),
        (TORCHRUN, []),
        (OPEN_MPI, []),
    ],
)
def test_addresses_in_rank_order(environ, addresses):
    assert detect_cluster(environ).addresses == tuple(addresses)


def test_vertex_evaluator_stands_outside():
    spec = json.loads(VERTEX["CLUSTER_SPEC"])
    spec["task"]["type"] = "workerpool3"
    found = detect_cluster({"CLUSTER_SPEC": json.dumps(spec)})
    assert (found.task_type, found.size, found.is_chief) == ("evaluator", 1, False)


def test_older_slurm_and_no_counts():
    old = {name: SLURM[name] for name in ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_STEP_NODELIST")}
    found = detect_cluster({**old, "SLURM_NTASKS": "6"})
    assert (found.size, found.local_rank, found.local_size) == (6, 1, 2)


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"RANK": "0"}, "torchrun: ignored: RANK without WORLD_SIZE, MASTER_ADDR"),
        ({"MASTER_ADDR": "a"}, "torchrun: ignored: MASTER_ADDR without RANK, WORLD_SIZE"),
        (
            {"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4", "SLURM_PROCID": "0"},
            "Slurm: ignored: an allocation, but no step: start with srun",
        ),
        ({"LSB_JOBID": "1"}, "jsrun: ignored: an LSF job, but not started by jsrun"),
        (
            {"KUBERNETES_SERVICE_HOST": "a", "JOB_COMPLETION_INDEX": "1"},
            "Kubernetes: ignored: JOB_COMPLETION_INDEX without TFDIST_NUM_WORKERS,"
            " which would tell the size",
        ),
        ({"CLUSTER_SPEC": "{}"}, "Vertex AI: ignored: CLUSTER_SPEC names no cluster"),
    ],
)
def test_what_is_ignored_and_why(environ, line):
    found, lines = detect_cluster(environ, explain=True)
    assert found is None
    assert line in lines


def test_daemons_of_an_inner_launcher_are_no_workers():
    """mpirun in a Slurm job starts one daemon a node with srun; its workers inherit the step's."""
    step = {**SLURM, "SLURM_PROCID": "1", "SLURM_NODEID": "1", "SLURM_STEP_TASKS_PER_NODE": "1(x3)"}
    step |= {"SLURM_STEP_NUM_TASKS": "3"}
    found, lines = detect_cluster({**step, **OPEN_MPI}, explain=True)
    assert (found.source, found.rank, found.size) == ("Open MPI", 2, 4)
    assert "Slurm: ignored: its step holds another launcher's daemons, one a node" in lines
    assert detect_cluster({**step, **TORCHRUN, "TORCHELASTIC_RUN_ID": "x"}).source == "torchrun"


@pytest.mark.parametrize(
    ("environ", "cause"),
    [
        (
            {**SLURM, **OPEN_MPI},
            r"Slurm says rank 3 of 4 at n11:\d+, Open MPI says rank 2 of 4\. Unset the variables",
        ),
        ({**TORCHRUN, **INTEL_MPI}, "torchrun says rank 5 of 8, PMI says rank 1 of 4"),
        (
            {
                **VERTEX,
                "TF_CONFIG": '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker",'
                ' "index": 0}}',
            },
            "TF_CONFIG says rank 0 of 1 at a:1, Vertex AI says rank 1 of 2",
        ),
        ({**TORCHRUN, "RANK": "8"}, "RANK=8 is outside the world of WORLD_SIZE=8"),
        ({**TORCHRUN, "RANK": "x"}, "RANK='x' must be a whole number from 0"),
        ({**TORCHRUN, "LOCAL_RANK": "4"}, "LOCAL_RANK=4 and LOCAL_WORLD_SIZE=4 do not fit"),
        ({**TORCHRUN, "WORLD_SIZE": "999999999"}, "WORLD_SIZE=999999999 is above 1000000"),
        ({"PET_NODE_RANK": "0", "PET_NNODES": "1:4"}, "PET_NNODES='1:4' must be a whole number"),
        ({**SAGEMAKER, "SM_HOSTS": "algo-1"}, "SM_HOSTS='algo-1' must be a JSON list"),
        ({**SAGEMAKER, "SM_HOSTS": "[1]"}, "must be a JSON list of host names"),
        ({**SAGEMAKER, "SM_CURRENT_HOST": "b"}, "SM_CURRENT_HOST='b' is not in SM_HOSTS="),
        ({"CLUSTER_SPEC": "{"}, "CLUSTER_SPEC is no valid JSON.*Received: CLUSTER_SPEC='{'"),
        (
            {"CLUSTER_SPEC": '{"cluster": {"worker": ["a:1"], "workerpool1": ["b:1"]}}'},
            "CLUSTER_SPEC names 'worker' twice",
        ),
        ({**SLURM, "SLURM_STEP_NODELIST": "n["}, "SLURM_STEP_NODELIST: .* no list of hosts"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x"}, "SLURM_STEP_TASKS_PER_NODE: .* of counts"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2,1"}, "does not fit SLURM_STEP_NODELIST="),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2(x3)"}, "does not fit .* and 4 tasks"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "2,2"}, "does not fit .* and 4 tasks"),
        ({**SLURM, "SLURM_STEP_TASKS_PER_NODE": "1(x4)"}, "does not fit .* and 4 tasks"),
        ({**SLURM, "SLURM_NODEID": "0"}, "SLURM_NODEID=0 contradicts"),
        ({**SLURM, "SLURM_DISTRIBUTION": "plane=2"}, "start with srun --distribution=block"),
        ({**SLURM, "SLURM_STEP_NUM_TASKS": "two"}, "SLURM_STEP_NUM_TASKS='two' must be"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_RANK is not set, although"),
        ({**KUBERNETES, "JOB_COMPLETION_INDEX": "3"}, "JOB_COMPLETION_INDEX=3 is outside"),
    ],
)
def test_contradictions_are_errors(environ, cause):
    with pytest.raises(ValueError, match=cause):
        detect_cluster(environ)


_SETS = [TORCHRUN, SAGEMAKER, VERTEX, SLURM, JSRUN, OPEN_MPI, MVAPICH, INTEL_MPI, CRAY, KUBERNETES]


@pytest.mark.parametrize("environ", _SETS)
def test_launcher_takes_away_what_tells_a_place(environ):
    left = {name: environ[name] for name in environ if name not in environments.RECOGNISED_BY}
    assert detect_cluster(environ) is not None
    assert detect_cluster(left) is None


_VARIABLES = sorted({name for variables in _SETS for name in variables} | {"SLURM_DISTRIBUTION"})


@given(st.sampled_from(_SETS), st.dictionaries(st.sampled_from(_VARIABLES), st.text(), max_size=3))
def test_any_value_is_read_or_refused(environ, changes):
    with contextlib.suppress(ValueError):  # any other error is a failure
        found = detect_cluster({**environ, **changes})
        assert found is None or 0 <= found.rank < found.size


def test_table_of_precedence():
    """The inner launcher's word comes first; the lines of an explanation stand in that order."""
    _, lines = detect_cluster({}, explain=True)
    assert [line.partition(":")[0] for line in lines] == [
        "TF_CONFIG",
        "tfdist launcher",
        "torchrun",
        "SageMaker",
        "Vertex AI",
        "Slurm",
        "jsrun",
        "Open MPI",
        "MVAPICH2",
        "PMI",
        "Kubernetes",
    ]


def test_uneven_cyclic_tasks_of_slurm_are_ranked_in_a_moment():
    environ = {
        "SLURM_PROCID": "32998", "SLURM_STEP_NUM_TASKS": "32999", "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "n[1-3000]", "SLURM_STEP_TASKS_PER_NODE": "30000,1(x2999)",
        "SLURM_DISTRIBUTION": "cyclic",
    }  # fmt: skip
    began = time.monotonic()
    ranks = environments.from_slurm(environ)
    assert time.monotonic() - began < 1.5  # it was 4 s
    assert (ranks.local_rank, ranks.local_size) == (29999, 30000)
    assert [address.rpartition(":")[0] for address in ranks.addresses[2999:3002]] == [
        "n3000", "n1", "n1",
    ]


def test_node_without_a_task_has_no_rank_of_a_cyclic_step():
    environ = {
        "SLURM_PROCID": "2", "SLURM_STEP_NUM_TASKS": "3", "SLURM_JOB_ID": "1",
        "SLURM_STEP_NODELIST": "n[1-3]", "SLURM_STEP_TASKS_PER_NODE": "2,0,1",
        "SLURM_DISTRIBUTION": "cyclic",
    }  # fmt: skip
    hosts = [a.rpartition(":")[0] for a in environments.from_slurm(environ).addresses]
    assert hosts == ["n1", "n3", "n1"]


_LONGEST = 128 * 1024 - 1  # bytes of a variable on Linux
_HOSTILE = ["[", "9", "n[1-99999],", "0(x9),", "a,", '{"a":', "n[1,", "\ud83d"]


@pytest.mark.parametrize("piece", _HOSTILE)
def test_longest_variables_take_a_moment_and_little_memory(piece):
    """Of each kind of environment; tracing memory makes it three times as slow."""
    text = (piece * _LONGEST)[:_LONGEST]
    tracemalloc.start()
    began = time.process_time()
    for environ in [*_SETS, {"TF_CONFIG": "{}"}]:
        for name in environ:
            with contextlib.suppress(ValueError):
                detect_cluster({**environ, name: text})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert time.process_time() - began < 15
    assert peak < 100e6
