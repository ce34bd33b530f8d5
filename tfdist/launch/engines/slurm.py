"""How does engine "slurm" place workers?  By srun, in this allocation or a new one.

Inside `sbatch` or `salloc` the workers are one step of that job. From a login node srun asks for
an allocation by itself, waits for its turn, and the launcher with it; its options come from Slurm's
own variables (SLURM_PARTITION, SLURM_TIMELIMIT, SLURM_NNODES, ...). For a job that outlives the
terminal, `tfdist render --target=slurm | sbatch` runs the launcher inside one.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence

from tfdist.cluster.hostlists import expand_counts, expand_hosts
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
    if job.hosts:  # the nodes that are left; srun would ask for all that the allocation began with
        nodes = _first_nodes(job.hosts, job.workers)
        arguments += [f"--nodes={len(nodes)}", f"--nodelist={','.join(nodes)}"]
    arguments += ["--overlap"] if "SLURM_JOB_ID" in os.environ else ["--overcommit"]
    return RemoteGang(
        job,
        interface=_interface(find_program("sinfo", package="slurm-client")),
        seat=lambda address, secret: _Srun(
            [*arguments, *AGENT], agent_environ(address, secret, rank_from="SLURM_PROCID")
        ),
        is_restart=is_restart,
    )


@contextlib.contextmanager
def open_places(job: Job) -> Iterator[Callable[[], dict[str, int]]]:
    """Counts the tasks of the nodes of this allocation that are up.

    Raises:
        RuntimeError: There is no allocation.
    """
    if "SLURM_JOB_NODELIST" not in os.environ:
        raise RuntimeError(
            f"engine='slurm' with workers={job.fewest_workers}:{job.workers} needs an allocation"
            " that outlives the loss of a node; call the launcher inside sbatch --no-kill."
        )
    slots = _slots_of_nodes(os.environ)
    squeue = [find_program("squeue", package="slurm-client"), "--noheader", "--format=%N"]
    sinfo = [find_program("sinfo", package="slurm-client"), "--noheader", "--Node"]

    def count() -> dict[str, int]:
        # A node that was lost does not come back to an allocation, even when it is up again.
        left = expand_hosts(_ask(*squeue, f"--jobs={os.environ['SLURM_JOB_ID']}").strip())
        lines = _ask(*sinfo, f"--nodes={','.join(left)}", "--format=%N %T").splitlines()
        states = dict(line.split() for line in lines if line.strip())
        return {node: slots[node] for node in left if _is_up(states.get(node, "gone"))}

    yield count


def _ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout


def _slots_of_nodes(environ: Mapping[str, str]) -> dict[str, int]:
    """Returns how many tasks each node of the allocation has.

    >>> names = {"SLURM_JOB_NODELIST": "n[1-3]", "SLURM_TASKS_PER_NODE": "2(x2),1"}
    >>> _slots_of_nodes(names)
    {'n1': 2, 'n2': 2, 'n3': 1}
    """
    nodes = expand_hosts(environ["SLURM_JOB_NODELIST"])
    counts = expand_counts(environ.get("SLURM_TASKS_PER_NODE", f"1(x{len(nodes)})"))
    return dict(zip(nodes, counts, strict=True))


def _is_up(state: str) -> bool:
    """Whether a node can have a step.

    >>> [state for state in ("mixed", "allocated*", "down", "idle", "draining") if _is_up(state)]
    ['mixed', 'idle', 'draining']
    """
    return state in ("allocated", "completing", "draining", "idle", "mixed", "reserved")


def _first_nodes(hosts: Sequence[tuple[str, int]], workers: int) -> list[str]:
    """Returns as many of the nodes as the workers need.

    >>> _first_nodes([("n1", 2), ("n3", 2), ("n4", 2)], 3)
    ['n1', 'n3']
    """
    chosen: list[str] = []
    for node, slots in hosts:
        if workers > 0:
            chosen.append(node)
            workers -= slots
    return chosen


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
