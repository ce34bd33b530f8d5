"""How do workers of other launchers find each other?  Worker 0 calls the roll itself.

srun, mpirun, torchrun and a Kubernetes Job tell each process its rank, but mostly not where the
others are. So worker 0 listens at an address that all can work out, and the others connect to it.

Synopsis (where the addresses are known there is nothing to do):

    >>> from tfdist.cluster.detection import Cluster
    >>> meet(Cluster(rank=0, size=1)).addresses
    ()

The address is TFDIST_RENDEZVOUS=host:port, else the host of worker 0 as the environment tells it,
else this host, if all workers are on it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import functools
import hashlib
import os
from collections.abc import Mapping
from typing import Any

from tfdist.cluster import contract
from tfdist.cluster.announcement import gather_facts
from tfdist.cluster.detection import Cluster
from tfdist.cluster.ports import own_address
from tfdist.cluster.roll_call import RollCall
from tfdist.cluster.roll_call_client import join
from tfdist.cluster.tf_config import TRAINING_TYPES, check_address
from tfdist.cluster.wording import shorten

# Without a launcher the other workers may come much later: cluster schedulers take their time.
_ROLL_CALL_SECS = 600.0
# Below the ports of outgoing connections, and of the workers.
_FIRST_PORT, _NUM_PORTS, _NUM_TRIES = 10000, 10000, 8
_LONGEST_RANKFILE = 1 << 20  # characters; only its second line is needed
# Variables that are the same for all processes of one job, and differ between jobs.
_IDENTITY = (
    "TORCHELASTIC_RUN_ID",
    "TORCHELASTIC_RESTART_COUNT",
    "MASTER_ADDR",
    "MASTER_PORT",
    "PET_MASTER_ADDR",
    "OMPI_MCA_orte_precondition_transports",
    "PMIX_NAMESPACE",
    "PMI_JOBID",
    "SLURM_JOB_ID",
    "SLURM_STEP_ID",
    "LSB_JOBID",
    "JSM_NAMESPACE_LOCAL_SIZE",
    "AZ_BATCH_JOB_ID",
    "AZ_BATCH_MASTER_NODE",
    contract.RENDEZVOUS,
)


def meet(cluster: Cluster | None) -> Cluster | None:
    """Adds the addresses of all workers to what the environment of this process tells.

    A second call returns the result of the first one: the others do not meet again.

    Args:
        cluster: This worker's ranks; None where it is alone.

    Returns:
        The same with `addresses`, where there are several workers.

    Raises:
        ValueError: TFDIST_RENDEZVOUS or TFDIST_ROLL_CALL_SECS has no valid value.
        RuntimeError: There is no address to meet at, or somebody is missing or differs.
    """
    if cluster is None or cluster.addresses or cluster.size == 1:
        return cluster
    if cluster.task_type not in TRAINING_TYPES:
        return cluster
    return _meet(cluster)


@functools.cache
def _meet(cluster: Cluster) -> Cluster:
    environ = os.environ
    host, ports = find_address(cluster, environ)
    secret = _secret(cluster, environ)
    timeout_secs = _timeout_secs(environ)
    shared: dict[str, Any] = {
        "rank": cluster.rank,
        "size": cluster.size,
        "secret": secret,
        "facts": gather_facts(),
        "timeout_secs": timeout_secs,
    }
    if cluster.rank == 0:
        with _open_roll_call(cluster, host, ports, secret, timeout_secs) as roll_call:
            port = roll_call.address.rpartition(":")[2]
            named = environ.get(contract.HOST, host)
            # If it listens on all interfaces, loopback is one of them.
            here = roll_call.address.rpartition(":")[0] or "127.0.0.1"
            addresses = join(f"{here}:{port}", host=_bracketed(named), **shared)
    else:
        named = own_address(host)
        servers = ",".join(f"{_bracketed(host)}:{port}" for port in ports)
        addresses = join(servers, host=_bracketed(named), **shared)
    return _with_addresses(cluster, addresses)


def find_address(cluster: Cluster, environ: Mapping[str, str]) -> tuple[str, tuple[int, ...]]:
    """Works out where worker 0 calls the roll, alike on all workers.

    Args:
        cluster: This worker's ranks.
        environ: Variables by name.

    Returns:
        Worker 0's host, and the ports to try in this order: some may be taken.

    Raises:
        ValueError: TFDIST_RENDEZVOUS is no "host:port".
        RuntimeError: The environment does not say it.
    """
    if text := environ.get(contract.RENDEZVOUS):
        if wrong := check_address(text):
            raise ValueError(f"In {contract.RENDEZVOUS}, {wrong}; correct it.")
        host, _, port = text.rpartition(":")
        return host.strip("[]"), (int(port),)
    host = _host_of_worker_0(cluster, environ)
    if not host:
        raise RuntimeError(
            f"{cluster.source} says that this is worker {cluster.rank} of {cluster.size}, but not"
            f" where the others are. Set {contract.RENDEZVOUS}=HOST:PORT on all workers, HOST"
            " being worker 0's and PORT a free one there."
        )
    # torchrun itself uses MASTER_PORT, so the port is always derived from the job.
    first = int.from_bytes(_identity(cluster, environ)[:4], "big") % _NUM_PORTS
    return host, tuple(_FIRST_PORT + (first + n) % _NUM_PORTS for n in range(_NUM_TRIES))


def _host_of_worker_0(cluster: Cluster, environ: Mapping[str, str]) -> str:
    if cluster.local_size == cluster.size:
        return "127.0.0.1"
    for name in ("MASTER_ADDR", "PET_MASTER_ADDR"):  # the second one is Kubeflow's
        if cluster.source == "torchrun" and environ.get(name):
            return _checked_host(name, environ[name])
    if environ.get("AZ_BATCH_MASTER_NODE"):  # "ip:port" on Azure ML, also for MPI jobs
        named = environ["AZ_BATCH_MASTER_NODE"].rpartition(":")[0].strip("[]")
        return _checked_host("AZ_BATCH_MASTER_NODE", named)
    if cluster.source == "jsrun" and environ.get("LSB_DJOB_RANKFILE"):
        with contextlib.suppress(OSError), open(
            environ["LSB_DJOB_RANKFILE"], encoding="utf-8", errors="replace"
        ) as file:
            hosts = file.read(_LONGEST_RANKFILE).split()
            # The first one is the launch node.
            return _checked_host("LSB_DJOB_RANKFILE", hosts[1]) if len(hosts) > 1 else ""
    return ""


def _checked_host(name: str, host: str) -> str:
    bare = host.strip("[]")
    if wrong := check_address(f"[{bare}]:1" if ":" in bare else f"{bare}:1"):
        raise ValueError(f"In {name}={shorten(host)}, {wrong}; correct it.")
    return bare


def _identity(cluster: Cluster, environ: Mapping[str, str]) -> bytes:
    told = [f"{name}={environ[name]}" for name in _IDENTITY if name in environ]
    text = "\n".join([cluster.source, str(cluster.size), *told])
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _secret(cluster: Cluster, environ: Mapping[str, str]) -> bytes:
    """TFDIST_SECRET, where the user has given the job one.

    The default, derived from the job, keeps two jobs apart, but not a stranger who knows the
    variables. TensorFlow's own ports, which open next, ask for no secret at all.
    """
    if given := environ.get(contract.SECRET):
        return given.encode("utf-8", "surrogateescape")
    return _identity(cluster, environ).hex().encode()


def _open_roll_call(
    cluster: Cluster, host: str, ports: tuple[int, ...], secret: bytes, timeout_secs: float
) -> RollCall:
    taken: RuntimeError | None = None
    for port in ports:
        for interface in (host, ""):  # behind a service, a host's name is not its address
            try:
                return RollCall(
                    size=cluster.size,
                    secret=secret,
                    host=interface,
                    port=port,
                    timeout_secs=timeout_secs,
                )
            except RuntimeError as error:
                taken = error
                if getattr(error.__cause__, "errno", None) == errno.EADDRINUSE:
                    break
    raise taken or RuntimeError("There is no port to call the roll at.")


def _with_addresses(cluster: Cluster, addresses: tuple[str, ...]) -> Cluster:
    """Also counts the workers of this host, where the environment has not."""
    if cluster.local_size > 1:
        return dataclasses.replace(cluster, addresses=addresses)
    hosts = [address.rpartition(":")[0] for address in addresses]
    own = hosts[cluster.rank]
    return dataclasses.replace(
        cluster,
        addresses=addresses,
        local_rank=hosts[: cluster.rank].count(own),
        local_size=hosts.count(own),
    )


def _timeout_secs(environ: Mapping[str, str]) -> float:
    text = environ.get(contract.ROLL_CALL_SECS) or str(_ROLL_CALL_SECS)
    return contract.parse_secs(text, contract.ROLL_CALL_SECS)


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host and not host.startswith("[") else host
