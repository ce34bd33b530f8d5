"""How does engine "dask" place workers?  By tasks with agents, each pinned to a Dask worker.

The cluster is that of the client that this process has, else the one that DASK_SCHEDULER_ADDRESS
names, else a new one on this machine, which ends with the attempt. Dask itself runs no part of
the training: the worker is a process of its own, beside Dask's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from tfdist.cluster.ports import own_address
from tfdist.launch.engine import import_package
from tfdist.launch.engines import agent
from tfdist.launch.engines.remote import RemoteGang
from tfdist.launch.job import Job


def place(job: Job, *, is_restart: bool) -> RemoteGang:
    """Asks Dask for a worker of its own for each of ours."""
    distributed = import_package("distributed", engine="dask", extra="dask")
    client, is_ours = _find_client(distributed, job)
    try:
        scheduler = client.scheduler.address.rpartition("//")[2].rpartition(":")[0]
        return RemoteGang(
            job,
            interface=own_address(scheduler.strip("[]")),
            seat=lambda address, secret: _Tasks(client, job, address, secret, is_ours=is_ours),
            is_restart=is_restart,
        )
    except BaseException:
        if is_ours:
            _close(client)
        raise


@contextlib.contextmanager
def open_places(job: Job) -> Iterator[Callable[[], int]]:
    """Counts the cluster's workers; the client that this needs serves all attempts of the job."""
    distributed = import_package("distributed", engine="dask", extra="dask")
    client, is_ours = _find_client(distributed, job)
    try:
        with client.as_current():  # which `place` finds
            yield lambda: len(client.scheduler_info(n_workers=-1)["workers"])
    finally:
        if is_ours:
            _close(client)


def _find_client(distributed: Any, job: Job) -> tuple[Any, bool]:
    dask = import_package("dask", engine="dask", extra="dask")
    with contextlib.suppress(ValueError):
        return distributed.get_client(), False
    if dask.config.get("scheduler-address", None):
        return distributed.Client(set_as_default=False), True
    cluster = distributed.LocalCluster(
        n_workers=job.workers,
        threads_per_worker=1,
        host="127.0.0.1",
        dashboard_address=None,
        silence_logs=40,
    )
    return distributed.Client(cluster, set_as_default=False), True


def _close(client: Any) -> None:
    cluster = client.cluster
    client.close()
    if cluster is not None:
        cluster.close()


class _Tasks:
    """One pinned task for each worker."""

    def __init__(self, client: Any, job: Job, address: str, secret: str, *, is_ours: bool) -> None:
        self._client, self._is_ours, self._futures = client, is_ours, []
        for rank, host in enumerate(_choose_workers(client, job)):
            self._futures.append(
                client.submit(
                    agent.serve,
                    address,
                    secret=secret,
                    rank=rank,
                    key=f"tfdist-{secret[:8]}-{rank}",
                    workers=[host],
                    allow_other_workers=False,
                    pure=False,
                    retries=0,
                )
            )

    def problem(self) -> str:
        """What Dask says of a task that has failed."""
        for future in self._futures:
            if future.status in ("error", "cancelled", "lost"):
                return f"an agent has failed ({future.status}): {future.exception(timeout=10)!r}"
        return ""

    def is_queued(self) -> bool:
        """Never: the Dask workers were there before."""
        return False

    def end(self) -> None:
        """Cancels the tasks, and ends the cluster if we started it."""
        from distributed import wait

        with contextlib.suppress(Exception):  # Dask may have gone already
            wait(self._futures, timeout=5)
            self._client.cancel(self._futures, force=True)
        if self._is_ours:
            _close(self._client)


def _choose_workers(client: Any, job: Job) -> list[str]:
    """Chooses the Dask workers; raises an error if there are too few for the job."""
    with contextlib.suppress(TimeoutError):
        client.wait_for_workers(job.workers, timeout=job.roll_call_secs)
    found = sorted(client.scheduler_info(n_workers=-1)["workers"])
    if len(found) < job.workers:
        raise RuntimeError(
            f"workers={job.workers!r} were asked for, but the Dask cluster at"
            f" {client.scheduler.address} has {len(found)} within"
            f" roll_call_secs={job.roll_call_secs!r}; add Dask workers (one for each), or ask for"
            " fewer."
        )
    return found[: job.workers]
