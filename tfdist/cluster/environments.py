"""Which rank do other launchers' variables give this process?  One pure function for each.

Each function reads a mapping of variables and returns `Ranks`, or why it ignores the variables that
are set, or "" if none of its variables is set. detection.py says in which order they are called.
Most of these environments tell a rank and a size, but not where the other workers are.

    >>> from_open_mpi({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"})
    Ranks(rank=1, size=2, addresses=(), local_rank=0, local_size=1)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import TypeVar

from tfdist.cluster.contract import NUM_WORKERS
from tfdist.cluster.hostlists import expand_counts, expand_hosts
from tfdist.cluster.wording import shorten

Environ = Mapping[str, str]
T = TypeVar("T")


MAX_WORKERS = 1_000_000  # far above any job; a mistyped number must not fill the memory

_SAGEMAKER_PORT = 2223  # as TensorFlow's own resolver for SageMaker has it
# Below the ports of outgoing connections; jobs that share a host start at different ones.
_FIRST_SLURM_PORT, _NUM_SLURM_PORTS = 20000, 9000


@dataclasses.dataclass(frozen=True)
class Ranks:
    """What an environment tells a worker of its rank and of the others; "local": on this host."""

    rank: int  # over all workers
    size: int  # workers in all
    addresses: tuple[str, ...] = ()  # "host:port" by rank; () where the environment has none
    local_rank: int = 0
    local_size: int = 1


def from_torchrun(environ: Environ) -> Ranks | str:
    """torchrun and all that set the same variables, or Kubeflow (one worker per node)."""
    if "RANK" not in environ and {"PET_NODE_RANK", "PET_NNODES"} <= set(environ):
        return make_ranks(environ, rank="PET_NODE_RANK", size="PET_NNODES")
    names = ("RANK", "WORLD_SIZE", "MASTER_ADDR")  # RANK alone may mean anything
    if missing := [name for name in names if name not in environ]:
        found = [name for name in names if name in environ]
        return f"{', '.join(found)} without {', '.join(missing)}" if found else ""
    return make_ranks(
        environ,
        rank="RANK",
        size="WORLD_SIZE",
        local_rank="LOCAL_RANK",
        local_size="LOCAL_WORLD_SIZE",
    )


def from_sagemaker(environ: Environ) -> Ranks | str:
    """Amazon SageMaker: the hosts are ranked in the order of their sorted names."""
    if "SM_HOSTS" not in environ or "SM_CURRENT_HOST" not in environ:
        return ""
    text = environ["SM_HOSTS"]
    try:
        hosts = json.loads(text)
    except (ValueError, RecursionError):
        hosts = None
    if not isinstance(hosts, list) or not all(isinstance(host, str) for host in hosts):
        raise ValueError(f"SM_HOSTS={shorten(text)} must be a JSON list of host names; set it.")
    hosts = sorted(set(hosts))
    if environ["SM_CURRENT_HOST"] not in hosts:
        raise ValueError(
            f"SM_CURRENT_HOST={shorten(environ['SM_CURRENT_HOST'])} is not in"
            f" SM_HOSTS={shorten(text)}; correct one of them."
        )
    return Ranks(
        rank=hosts.index(environ["SM_CURRENT_HOST"]),
        size=len(hosts),
        addresses=tuple(f"{host}:{_SAGEMAKER_PORT}" for host in hosts),
    )


def from_slurm(environ: Environ) -> Ranks | str:
    """A Slurm step (srun). An allocation alone, without a step, has no ranks to give."""
    if "SLURM_PROCID" not in environ or "SLURM_STEP_NODELIST" not in environ:
        return "an allocation, but no step: start with srun" if "SLURM_JOB_ID" in environ else ""
    # An interactive step, which has one task, also has the allocation's number of tasks.
    size = "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"
    ranks = make_ranks(environ, rank="SLURM_PROCID", size=size)
    nodes = _slurm_nodes(environ, ranks)
    if _is_step_of_daemons(environ, ranks, nodes):
        return "its step holds another launcher's daemons, one a node"
    node = nodes[ranks.rank]
    if environ.get("SLURM_NODEID", str(node)) != str(node):
        raise ValueError(
            f"SLURM_NODEID={environ['SLURM_NODEID']} contradicts SLURM_STEP_TASKS_PER_NODE and"
            f" SLURM_DISTRIBUTION, by which rank {ranks.rank} is on node {node}; start with"
            " srun --distribution=block."
        )
    hosts = _read_list(environ, "SLURM_STEP_NODELIST", expand_hosts)
    job = _number(environ, "SLURM_JOB_ID") * 101 + _number(environ, "SLURM_STEP_ID") * 7
    first_port = _FIRST_SLURM_PORT + job % _NUM_SLURM_PORTS
    counts = [0] * len(hosts)
    addresses = []
    for each in nodes:
        addresses.append(f"{hosts[each]}:{first_port + counts[each]}")
        counts[each] += 1
    return dataclasses.replace(
        ranks,
        addresses=tuple(addresses),
        local_rank=nodes[: ranks.rank].count(node),
        local_size=counts[node],
    )


def _slurm_nodes(environ: Environ, ranks: Ranks) -> list[int]:
    """Returns the node of each rank, from the number of tasks per node and their distribution."""
    num_hosts = len(_read_list(environ, "SLURM_STEP_NODELIST", expand_hosts))
    text = environ.get("SLURM_STEP_TASKS_PER_NODE", "")
    counts: tuple[int, ...] = (ranks.size // num_hosts,) * num_hosts
    if text:
        counts = _read_list(environ, "SLURM_STEP_TASKS_PER_NODE", expand_counts)
    if len(counts) != num_hosts or sum(counts) != ranks.size:
        raise ValueError(
            f"SLURM_STEP_TASKS_PER_NODE={shorten(text)} does not fit"
            f" SLURM_STEP_NODELIST={shorten(environ['SLURM_STEP_NODELIST'])} and {ranks.size}"
            " tasks; start with srun --ntasks and --nodes that fit."
        )
    kind = environ.get("SLURM_DISTRIBUTION", "block").partition(":")[0].partition(",")[0]
    if kind == "cyclic":
        nodes: list[int] = []
        left, number = [node for node, count in enumerate(counts) if count], 0
        while left:  # a round gives a rank to each node that has tasks left
            nodes += left
            number += 1
            left = [node for node in left if counts[node] > number]
        return nodes
    if kind not in ("block", "Block", "unknown", "none", ""):
        raise ValueError(
            f"SLURM_DISTRIBUTION={shorten(environ['SLURM_DISTRIBUTION'])} does not say which rank"
            " is on which node; start with srun --distribution=block."
        )
    return [node for node, count in enumerate(counts) for _ in range(count)]


def _is_step_of_daemons(environ: Environ, ranks: Ranks, nodes: list[int]) -> bool:
    """Tells whether mpirun or torchrun, running as the tasks of this step, started this process."""
    inner = environ.get("OMPI_COMM_WORLD_SIZE", "")
    if not inner and "TORCHELASTIC_RUN_ID" in environ:
        inner = environ.get("WORLD_SIZE", "")
    is_one_a_node = len(set(nodes)) == len(nodes)
    return is_one_a_node and inner.isdigit() and int(inner) != ranks.size


def from_jsrun(environ: Environ) -> Ranks | str:
    """IBM's jsrun under LSF."""
    if "LSB_JOBID" not in environ or "JSM_NAMESPACE_SIZE" not in environ:
        return "an LSF job, but not started by jsrun" if "LSB_JOBID" in environ else ""
    return make_ranks(
        environ,
        rank="JSM_NAMESPACE_RANK",
        size="JSM_NAMESPACE_SIZE",
        local_rank="JSM_NAMESPACE_LOCAL_RANK",
        local_size="JSM_NAMESPACE_LOCAL_SIZE",
    )


def from_open_mpi(environ: Environ) -> Ranks | str:
    """Open MPI's mpirun, also on Azure ML."""
    return _from_mpi(environ, "OMPI_COMM_WORLD_")


def from_mvapich(environ: Environ) -> Ranks | str:
    """MVAPICH2's mpirun_rsh."""
    return _from_mpi(environ, "MV2_COMM_WORLD_")


def _from_mpi(environ: Environ, prefix: str) -> Ranks | str:
    if prefix + "SIZE" not in environ:
        return ""
    return make_ranks(
        environ,
        rank=prefix + "RANK",
        size=prefix + "SIZE",
        local_rank=prefix + "LOCAL_RANK",
        local_size=prefix + "LOCAL_SIZE",
    )


def from_pmi(environ: Environ) -> Ranks | str:
    """MPICH, Intel MPI and Cray, by the process manager's interface."""
    if "PMI_SIZE" not in environ:
        return ""
    is_intel = "MPI_LOCALRANKID" in environ
    return make_ranks(
        environ,
        rank="PMI_RANK",
        size="PMI_SIZE",
        local_rank="MPI_LOCALRANKID" if is_intel else "PMI_LOCAL_RANK",
        local_size="MPI_LOCALNRANKS" if is_intel else "PMI_LOCAL_SIZE",
    )


def from_kubernetes(environ: Environ) -> Ranks | str:
    """A Kubernetes Indexed Job, which tells the index; NUM_WORKERS has to tell the size."""
    if "KUBERNETES_SERVICE_HOST" not in environ or "JOB_COMPLETION_INDEX" not in environ:
        return ""
    if NUM_WORKERS not in environ:
        return f"JOB_COMPLETION_INDEX without {NUM_WORKERS}, which would tell the size"
    return make_ranks(environ, rank="JOB_COMPLETION_INDEX", size=NUM_WORKERS)


# -------------------------------------------------------------------------------- reading variables


def make_ranks(
    environ: Environ,
    *,
    rank: str,
    size: str,
    local_rank: str = "",
    local_size: str = "",
) -> Ranks:
    """Reads the ranks from the variables of these names.

    Raises:
        ValueError: A variable is missing, not a whole number, or outside its range.
    """
    ranks = Ranks(
        rank=read_count(environ, rank),
        size=read_count(environ, size, at_least=1),
        local_rank=read_count(environ, local_rank) if local_rank in environ else 0,
        local_size=read_count(environ, local_size, at_least=1) if local_size in environ else 1,
    )
    if ranks.size > MAX_WORKERS:
        raise ValueError(
            f"{size}={ranks.size} is above {MAX_WORKERS}, the most that can be; set it."
        )
    if ranks.rank >= ranks.size:
        raise ValueError(
            f"{rank}={ranks.rank} is outside the world of {size}={ranks.size}; ranks go from 0 to"
            f" {ranks.size - 1}. Correct the variables, or unset both to train alone."
        )
    if local_rank in environ and local_size not in environ:
        # Some tell the local rank, but not how many workers this host has: at least this many.
        ranks = dataclasses.replace(ranks, local_size=min(ranks.local_rank + 1, ranks.size))
    if not ranks.local_rank < ranks.local_size <= ranks.size:
        raise ValueError(
            f"{local_rank}={ranks.local_rank} and {local_size}={ranks.local_size} do not fit each"
            f" other and {size}={ranks.size}; correct them."
        )
    return ranks


def read_count(environ: Environ, name: str, *, at_least: int = 0) -> int:
    """Reads a whole number from a variable.

    Raises:
        ValueError: The variable is missing, not a whole number, or smaller than `at_least`.
    """
    text = environ.get(name)
    if text is None:
        raise ValueError(f"{name} is not set, although its companions are; set it, or unset those.")
    if not (text.isascii() and text.isdigit() and len(text) < 10 and int(text) >= at_least):
        raise ValueError(f"{name}={shorten(text)} must be a whole number from {at_least}; set it.")
    return int(text)


def _read_list(
    environ: Environ, name: str, expand: Callable[[str], tuple[T, ...]]
) -> tuple[T, ...]:
    try:
        return expand(environ[name])
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _number(environ: Environ, name: str) -> int:
    """Reads a number that only has to be the same on all workers; 0 if it is not set."""
    text = environ.get(name, "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 20 else 0


# Variables by which those environments, and CLUSTER_SPEC, are known. The launcher takes them out of
# its workers' environment: they describe the launcher's own rank, not those of its workers.
RECOGNISED_BY = (
    "RANK",
    "WORLD_SIZE",
    "PET_NODE_RANK",
    "SM_CURRENT_HOST",
    "CLUSTER_SPEC",
    "SLURM_PROCID",
    "JSM_NAMESPACE_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "MV2_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "JOB_COMPLETION_INDEX",
)
