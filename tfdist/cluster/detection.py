"""Who am I, and who are the others?  The environment of this process -> a Cluster, or None.

Synopsis:

    >>> cluster = detect_cluster({"TF_CONFIG": '''{"cluster": {"worker": ["a:1", "b:1"]},
    ...                                             "task": {"type": "worker", "index": 1}}'''})
    >>> cluster.rank, cluster.size, cluster.is_chief, cluster.source
    (1, 2, False, 'TF_CONFIG')

The variables of tfdist's own launcher are in contract.py: what it tells each worker, and what a
worker adds once the roll call has told it the addresses.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, Literal, overload

from tfdist.cluster import environments, wording
from tfdist.cluster import tf_config as tf_config_lib
from tfdist.cluster.contract import ADDRESSES, LOCAL_RANK, LOCAL_SIZE, RANK, SIZE
from tfdist.cluster.environments import Ranks
from tfdist.cluster.tf_config import Jobs


@dataclasses.dataclass(frozen=True)
class Cluster:
    """One worker's rank among all of them.

    An evaluator and a parameter server stand outside the training world: they have rank 0 in a
    world of size 1, are never the chief, and `addresses` holds their own address where it is known.
    """

    rank: int  # 0 <= rank < size, over all workers that train; the chief has 0
    size: int  # number of workers that train
    addresses: tuple[str, ...] = ()  # "host:port" by rank; () if not known yet
    task_type: str = "worker"  # "chief", "worker", "ps" or "evaluator"
    task_index: int = -1  # within the task type; by default the rank
    local_rank: int = 0  # among the workers on this host
    local_size: int = 1  # workers on this host
    source: str = "given"  # where this comes from
    jobs: Jobs = dataclasses.field(default=(), repr=False)  # all tasks as TF_CONFIG gave them

    def __post_init__(self) -> None:
        object.__setattr__(self, "addresses", tuple(self.addresses))
        if self.task_index == -1:
            object.__setattr__(self, "task_index", self.rank)
        _check(self)

    @property
    def is_chief(self) -> bool:
        """Whether this is the one worker that writes files and shows progress."""
        return self.rank == 0 and self.task_type in tf_config_lib.TRAINING_TYPES

    def to_tf_config(self) -> dict[str, Any]:
        """Describes the cluster as TensorFlow expects it in TF_CONFIG.

        Returns:
            A dict for json.dumps, with the task types (chief, worker, ps, evaluator) that the
            cluster was given with; all tasks under "worker" if it was given by addresses. An empty
            dict for a single worker without an address.

        Raises:
            RuntimeError: There are several workers and their addresses are not known yet.
        """
        jobs = self.jobs or _jobs_of_addresses(self)
        if not any(addresses for _, addresses in jobs):
            if self.size == 1:
                return {}
            raise RuntimeError(
                f"The addresses of the {self.size} workers are not known: {self.source} gives"
                f" rank={self.rank} and size={self.size} only. Set TF_CONFIG, or start the workers"
                " with `python -m tfdist.launch`, which tells them each other's addresses."
            )
        return {
            "cluster": {task_type: list(addresses) for task_type, addresses in jobs},
            "task": {"type": self.task_type, "index": self.task_index},
        }


@overload
def detect_cluster(
    environ: Mapping[str, str] | None = None, *, explain: Literal[False] = False
) -> Cluster | None: ...
@overload
def detect_cluster(
    environ: Mapping[str, str] | None = None, *, explain: Literal[True]
) -> tuple[Cluster | None, tuple[str, ...]]: ...
def detect_cluster(
    environ: Mapping[str, str] | None = None, *, explain: bool = False
) -> Cluster | None | tuple[Cluster | None, tuple[str, ...]]:
    """Finds this process's rank in the variables that its launcher has set.

    The first of these that is set is used: TF_CONFIG, tfdist's own launcher, torchrun, SageMaker,
    Vertex AI, a Slurm step, jsrun, Open MPI, MVAPICH2, PMI, a Kubernetes Indexed Job. Any other
    that is set has to agree with it.

    Args:
        environ: Variables by name; those of this process by default.
        explain: Also return a line for each environment: what matched, what was ignored and why.

    Returns:
        The cluster, or None where this process is alone; with `explain`, that and the lines.

    Raises:
        ValueError: A variable has no valid value, or two environments disagree.
    """
    environ = os.environ if environ is None else environ
    chosen: Cluster | None = None
    lines = []
    for name, detect in _DETECTORS:
        finding = detect(environ)
        if isinstance(finding, str):
            lines.append(f"{name}: {finding and 'ignored: ' + finding or 'not set'}")
        elif chosen is None:
            chosen = finding
            lines.append(f"{name}: used: {_summary(finding)}")
        else:
            _check_agreement(chosen, finding)
            lines.append(f"{name}: agrees: {_summary(finding)}")
    return (chosen, tuple(lines)) if explain else chosen


# ---------------------------------------------------------------------------------------- detectors
# A detector returns a Cluster, or why it ignores the variables that are set, or "" if none is set.


def _from_tf_config(environ: Mapping[str, str]) -> Cluster | str:
    if "TF_CONFIG" not in environ:
        return ""
    config = tf_config_lib.parse_tf_config(environ["TF_CONFIG"])
    return "TF_CONFIG names no cluster" if config is None else _make_cluster(config, "TF_CONFIG")


def _from_cluster_spec(environ: Mapping[str, str]) -> Cluster | str:
    if "CLUSTER_SPEC" not in environ:
        return ""
    config = tf_config_lib.parse_tf_config(
        environ["CLUSTER_SPEC"], variable="CLUSTER_SPEC", new_names=_POOLS
    )
    if config is None:
        return "CLUSTER_SPEC names no cluster"
    return _make_cluster(config, "Vertex AI")


# Vertex AI's worker pools: the third one holds parameter servers, or reduction servers.
_POOLS = {
    f"workerpool{number}": task_type
    for number, task_type in enumerate(("chief", "worker", "ps", "evaluator"))
}


def _make_cluster(config: tf_config_lib.TfConfig, source: str) -> Cluster:
    jobs = dict(config.jobs)
    training = [
        (task_type, index, address)
        for task_type in tf_config_lib.TRAINING_TYPES
        for index, address in enumerate(jobs.get(task_type, ()))
    ]
    task = (config.task_type, config.task_index)
    shared: dict[str, Any] = {
        "task_type": task[0],
        "task_index": task[1],
        "source": source,
        "jobs": config.jobs,
    }
    if config.task_type not in tf_config_lib.TRAINING_TYPES:
        own = jobs.get(config.task_type, ())[config.task_index :][:1]
        return Cluster(rank=0, size=1, addresses=own, **shared)
    rank = [entry[:2] for entry in training].index(task)
    hosts = [address.rpartition(":")[0] for _, _, address in training]
    return Cluster(
        rank=rank,
        size=len(training),
        addresses=tuple(address for _, _, address in training),
        local_rank=hosts[:rank].count(hosts[rank]),
        local_size=hosts.count(hosts[rank]),
        **shared,
    )


def _from_own_launcher(environ: Mapping[str, str]) -> Ranks | str:
    if RANK not in environ and SIZE not in environ:
        return ""
    ranks = environments.make_ranks(
        environ, rank=RANK, size=SIZE, local_rank=LOCAL_RANK, local_size=LOCAL_SIZE
    )
    if not environ.get(ADDRESSES):
        return ranks
    addresses = tuple(environ[ADDRESSES].split(","))
    wrong = next(filter(None, map(tf_config_lib.check_address, addresses)), "")
    if not wrong and len(set(addresses)) != ranks.size:
        wrong = f"{len(set(addresses))} different addresses do not fit {SIZE}={ranks.size}"
    if wrong:
        raise ValueError(
            f"In {ADDRESSES}, {wrong}; give one 'host:port' for each worker, in rank order."
            f" Received: {ADDRESSES}={wording.shorten(environ[ADDRESSES])}"
        )
    return dataclasses.replace(ranks, addresses=addresses)


def _named(
    name: str, detect: Callable[[Mapping[str, str]], Ranks | str]
) -> tuple[str, Callable[[Mapping[str, str]], Cluster | str]]:
    def to_cluster(environ: Mapping[str, str]) -> Cluster | str:
        ranks = detect(environ)
        if isinstance(ranks, str):
            return ranks
        return Cluster(source=name, **dataclasses.asdict(ranks))

    return name, to_cluster


# An inner launcher comes before an outer one that it may run in.
_DETECTORS: tuple[tuple[str, Callable[[Mapping[str, str]], Cluster | str]], ...] = (
    ("TF_CONFIG", _from_tf_config),
    _named("tfdist launcher", _from_own_launcher),
    _named("torchrun", environments.from_torchrun),
    _named("SageMaker", environments.from_sagemaker),
    ("Vertex AI", _from_cluster_spec),
    _named("Slurm", environments.from_slurm),
    _named("jsrun", environments.from_jsrun),
    _named("Open MPI", environments.from_open_mpi),
    _named("MVAPICH2", environments.from_mvapich),
    _named("PMI", environments.from_pmi),
    _named("Kubernetes", environments.from_kubernetes),
)


# ------------------------------------------------------------------------------------------- checks


def _check(cluster: Cluster) -> None:
    """Refuses impossible ranks, sizes and addresses."""
    told = f"Received: {cluster!r}"
    if cluster.task_type not in tf_config_lib.TASK_TYPES:
        raise ValueError(
            f"task_type={cluster.task_type!r} is unknown; use one of"
            f" {tf_config_lib.TASK_TYPES}. {told}"
        )
    if cluster.task_type == "chief" and cluster.rank != 0:
        raise ValueError(f"The chief has rank 0; correct rank={cluster.rank!r}. {told}")
    if not 0 <= cluster.rank < cluster.size:
        raise ValueError(
            f"rank={cluster.rank!r} is outside the world of size={cluster.size!r};"
            f" ranks go from 0 to size - 1. {told}"
        )
    if not 0 <= cluster.local_rank < cluster.local_size <= cluster.size:
        raise ValueError(
            f"local_rank={cluster.local_rank!r} and local_size={cluster.local_size!r} do not fit;"
            f" 0 <= local_rank < local_size <= size={cluster.size!r} is needed. {told}"
        )
    if cluster.addresses and len(cluster.addresses) != cluster.size:
        raise ValueError(
            f"There are {len(cluster.addresses)} addresses for size={cluster.size!r} workers;"
            f" give each worker one. {told}"
        )
    for address in cluster.addresses:
        if wrong := tf_config_lib.check_address(address):
            raise ValueError(f"In the addresses, {wrong}; correct it. {told}")
    if len(set(cluster.addresses)) != len(cluster.addresses):
        raise ValueError(f"Two workers have the same address; give each its own. {told}")


def _jobs_of_addresses(cluster: Cluster) -> Jobs:
    """Returns the tasks of a cluster given by addresses, whose first may be the chief."""
    has_chief = cluster.task_type == "chief" or cluster.task_index == cluster.rank - 1
    if not has_chief:
        return ((cluster.task_type, cluster.addresses),)
    jobs = (("chief", cluster.addresses[:1]), ("worker", cluster.addresses[1:]))
    return tuple(job for job in jobs if job[1])


def _check_agreement(chosen: Cluster, other: Cluster) -> None:
    if chosen.task_type not in tf_config_lib.TRAINING_TYPES:
        return  # outside the training world, ranks and sizes cannot be compared
    if (chosen.rank, chosen.size) != (other.rank, other.size):
        raise ValueError(
            f"Two environments disagree: {chosen.source} says {_summary(chosen)}, {other.source}"
            f" says {_summary(other)}. Unset the variables of the one that did not start this"
            " training, or pass cluster=tfdist.Cluster(...)."
        )


def _summary(cluster: Cluster) -> str:
    if cluster.task_type not in tf_config_lib.TRAINING_TYPES:
        return f"{cluster.task_type} {cluster.task_index}, outside the training world"
    where = f" at {cluster.addresses[cluster.rank]}" if cluster.addresses else ""
    return f"rank {cluster.rank} of {cluster.size}{where}"
