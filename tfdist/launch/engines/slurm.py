"""How does engine "slurm" place workers?  By srun, in this allocation or a new one.

Inside `sbatch` or `salloc` the workers are one step of that job. From a login node srun asks for
an allocation by itself, waits for its turn, and the launcher with it; its options come from Slurm's
own variables (SLURM_PARTITION, SLURM_TIMELIMIT, SLURM_NNODES, ...). For a job that outlives the
terminal, `scripts/render.py --target=slurm | sbatch` runs the launcher inside one.
"""

from __future__ import annotations

import os
import subprocess

from tfdist.cluster.hostlists import expand_hosts
from tfdist.cluster.ports import own_address
from tfdist.launch.engines.mpi import find_program
from tfdist.launch.engines.remote import RemoteGang
from tfdist.launch.engines.starter import AGENT, Command, agent_environ
from tfdist.launch.job import Job


class _Srun(Command):
    def is_queued(self) -> bool:
        """Whether this job may still be in Slurm's queue."""
        return "SLURM_JOB_ID" not in os.environ


def place(job: Job, *, is_restart: bool) -> RemoteGang:
    """Runs srun with an agent for each worker."""
    if "SLURM_STEP_NODELIST" in os.environ and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        raise RuntimeError(
            "engine='slurm' starts srun itself, but this process is one of several that srun has"
            " started. Run the program there without the launcher: tfdist.get_strategy finds its"
            " rank; or call the launcher outside of srun."
        )
    srun = find_program("srun", package="slurm-client")
    arguments = [
        srun,
        f"--ntasks={job.workers}",
        "--kill-on-bad-exit=1",
        "--export=ALL",
        "--cpu-bind=none",  # threads are fixed by the launcher
        "--unbuffered",
        "--job-name=tfdist",
    ]
    arguments += ["--overlap"] if "SLURM_JOB_ID" in os.environ else ["--overcommit"]
    return RemoteGang(
        job,
        interface=_interface(find_program("sinfo", package="slurm-client")),
        seat=lambda address, secret: _Srun(
            [*arguments, *AGENT], agent_environ(address, secret, rank_from="SLURM_PROCID")
        ),
        is_restart=is_restart,
    )


def _interface(sinfo: str) -> str:
    """Returns loopback if all workers are on this host, else an address that they can reach."""
    if "SLURM_JOB_NODELIST" in os.environ:
        own = os.environ.get("SLURMD_NODENAME", "")
        hosts = set(expand_hosts(os.environ["SLURM_JOB_NODELIST"])) - {own}
        return own_address(min(hosts) if hosts else "127.0.0.1")
    done = subprocess.run(
        [sinfo, "--noheader", "--Node", "--format=%o"],  # the address of each node
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    addresses = done.stdout.split()
    if done.returncode or not addresses:
        said = (done.stderr or "it names no node").strip()
        raise RuntimeError(
            f"Slurm does not answer here ({said}). Start its daemons, or call the launcher on a"
            " host of the cluster."
        )
    return own_address(addresses[0])
