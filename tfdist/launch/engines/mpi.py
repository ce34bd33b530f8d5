"""How does engine "mpi" place workers?  By mpirun, on this host or on those of its settings.

Open MPI reads its list of hosts from OMPI_MCA_orte_default_hostfile, or from the scheduler that it
runs under; MPICH and Intel MPI read theirs from HYDRA_HOST_FILE. No MPI library is needed in
Python: mpirun starts processes here, and nothing else.
"""

from __future__ import annotations

import os
import shutil
import subprocess

from tfdist.cluster import contract
from tfdist.cluster.ports import own_address
from tfdist.launch.engines import agent
from tfdist.launch.engines.remote import RemoteGang
from tfdist.launch.engines.starter import AGENT, Command, agent_environ
from tfdist.launch.job import Job

# With one of these there may be other hosts.
_HOSTS_FROM = (
    "OMPI_MCA_orte_default_hostfile",
    "PRTE_MCA_prte_default_hostfile",
    "HYDRA_HOST_FILE",
    "I_MPI_HYDRA_HOST_FILE",
    "SLURM_JOB_NODELIST",
    "PBS_NODEFILE",
    "LSB_HOSTS",
    "PE_HOSTFILE",
    contract.HOST,
)


_RANK_FROM = "OMPI_COMM_WORLD_RANK,PMIX_RANK,PMI_RANK,MV2_COMM_WORLD_RANK"
# mpirun's own connections, where this host is the only one.
_LOOPBACK = {"OMPI_MCA_oob_tcp_if_include": "lo"}
_ELSEWHERE = "192.0.2.1"  # reserved for documentation: the route to it is the route to other hosts


def place(job: Job, *, is_restart: bool) -> RemoteGang:
    """Runs mpirun with an agent for each worker."""
    if int(os.environ.get("OMPI_COMM_WORLD_SIZE", "1")) > 1:
        raise RuntimeError(
            "engine='mpi' starts mpirun itself, but this process is one of several that mpirun has"
            " started. Run the program there without the launcher: tfdist.get_strategy finds its"
            " rank; or call the launcher without mpirun."
        )
    mpirun = find_program("mpirun", package="openmpi-bin")
    has_hosts = bool(job.hosts) or any(name in os.environ for name in _HOSTS_FROM)
    flags = _flags(mpirun)
    if job.hosts:
        hosts = ",".join(f"{host}:{slots}" for host, slots in job.hosts)
        flags += ["-host" if flags else "-hosts", hosts]  # Hydra's has another name
    return RemoteGang(
        job,
        interface=own_address(_ELSEWHERE) if has_hosts else "127.0.0.1",
        seat=lambda address, secret: Command(
            [mpirun, "-n", str(job.workers), *flags, *AGENT],
            agent_environ(address, secret, rank_from=_RANK_FROM) | ({} if has_hosts else _LOOPBACK),
        ),
        is_restart=is_restart,
    )


def find_program(name: str, *, package: str) -> str:
    """Returns the path of a program.

    Raises:
        RuntimeError: It is not installed.
    """
    if path := shutil.which(name):
        return path
    raise RuntimeError(
        f"The program {name} is not on PATH={os.environ.get('PATH', '')!r}; on Debian and Ubuntu,"
        f" apt-get install {package} brings it."
    )


def _flags(mpirun: str) -> list[str]:
    """Returns the flags that Open MPI needs; other implementations need none."""
    try:
        done = subprocess.run(
            [mpirun, "--version"], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(f"{mpirun} --version does not work ({error}); repair it.") from error
    if "Open MPI" not in done.stdout + done.stderr and "OpenRTE" not in done.stdout + done.stderr:
        return []
    flags = ["--bind-to", "none", "--oversubscribe"]  # threads are fixed by the launcher
    for name in (agent.LAUNCHER, agent.RANK_FROM, contract.SECRET, "PYTHONPATH"):
        flags += ["-x", name]  # only the name: other users can read a command line
    return flags + (["--allow-run-as-root"] if os.getuid() == 0 else [])
