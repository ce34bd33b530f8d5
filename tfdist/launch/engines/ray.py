"""How does engine "ray" place workers?  By actors in a placement group, with an agent in each.

The cluster is the one that this process is connected to, else the one that RAY_ADDRESS names, else
a new one on this machine, which ends with the attempt. Each worker gets a bundle of
`threads` CPUs, and of the cluster's GPUs an equal share. Ray itself runs no part of the training:
the worker is a process of its own, beside the actor.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from tfdist.cluster.ports import is_reachable, own_address
from tfdist.launch.engine import import_package
from tfdist.launch.engines import agent
from tfdist.launch.engines.remote import RemoteGang
from tfdist.launch.job import Job, count_cores, inherited_environ

_OWN_CLUSTER = {
    # Otherwise Ray replaces a node's loopback address by this host's outer one.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    # Ray's future default, without which it warns.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
# What a client of gRPC says first, and the kind of frame that a server begins with.
_FIRST_WORDS = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
_HEADER_BYTES, _KIND, _SETTINGS = 9, 3, 4
_ANSWER_SECS = 20.0  # a cluster on this machine answers in a millisecond


def place(job: Job, *, is_restart: bool) -> RemoteGang:
    """Asks Ray for an actor for each worker."""
    with _variables({} if "RAY_ADDRESS" in os.environ else _OWN_CLUSTER):
        ray = import_package("ray", engine="ray", extra="ray")
        is_ours = not ray.is_initialized()
        if is_ours:
            _connect(ray, job)
        try:
            return RemoteGang(
                job,
                interface=own_address(ray.util.get_node_ip_address()),
                seat=lambda address, secret: _Actors(ray, job, address, secret, is_ours=is_ours),
                is_restart=is_restart,
            )
        except BaseException:
            if is_ours:
                ray.shutdown()
            raise


@contextlib.contextmanager
def open_places(job: Job) -> Iterator[Callable[[], int] | None]:
    """Counts the workers for which the living nodes have room, all of them being free.

    A cluster of our own, on this machine alone, has always room. The connection that counting needs
    serves all attempts of the job.
    """
    ray = import_package("ray", engine="ray", extra="ray")
    is_ours = not ray.is_initialized()
    if is_ours and "RAY_ADDRESS" not in os.environ:
        yield None
        return
    if is_ours:
        _connect(ray, job)
    try:
        yield lambda: _count_places(ray.nodes(), cpus=job.threads or 1)
    finally:
        if is_ours:
            ray.shutdown()


def _count_places(nodes: Sequence[Mapping[str, Any]], *, cpus: int) -> int:
    """Counts them: `cpus` CPUs each and, where there are GPUs, one of these at least.

    >>> node = {"Alive": True, "Resources": {"CPU": 5.0}}
    >>> _count_places([node, node, {**node, "Alive": False}], cpus=2)
    4
    """
    living = [node["Resources"] for node in nodes if node["Alive"]]
    has_gpus = any(node["Resources"].get("GPU") for node in nodes)
    return sum(
        min(int(own.get("CPU", 0) // cpus), int(own.get("GPU", 0)) if has_gpus else 10**6)
        for own in living
    )


def _connect(ray: Any, job: Job) -> None:
    if named := os.environ.get("RAY_ADDRESS"):
        refuse_unreachable(named)
        refuse_silent(named)
        try:
            ray.init(log_to_driver=False)
        except ConnectionError:
            raise RuntimeError(
                f"RAY_ADDRESS={named!r} is set, and what listens there does not answer as Ray "
                "does. Start that cluster (ray start --head), name one that runs, or unset "
                "RAY_ADDRESS for one on this machine."
            ) from None
        return
    ray.init(
        address="local",
        num_cpus=max(count_cores(), job.workers),
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
        _node_ip_address="127.0.0.1",
    )


def refuse_unreachable(named: str) -> None:
    """Raises a RuntimeError where nothing listens at a cluster's address.

    Ray itself would try for minutes, and say nothing but what it tries.

    Args:
        named: RAY_ADDRESS; "auto" and the like name no address.
    """
    address = named.removeprefix("ray://")
    if ":" in address and not is_reachable(address):
        raise RuntimeError(
            f"RAY_ADDRESS={named!r} is set, and nothing listens there. Start that cluster (ray "
            "start --head), name one that runs, or unset RAY_ADDRESS for one on this machine."
        )


def refuse_silent(named: str, *, within_secs: float = _ANSWER_SECS) -> None:
    """Raises a RuntimeError where what listens at a cluster's address speaks no gRPC.

    Ray itself would wait for minutes.

    Args:
        named: RAY_ADDRESS, as for `refuse_unreachable`.
        within_secs: How long it may take to answer, in seconds.
    """
    host, _, port = named.removeprefix("ray://").rpartition(":")
    if host and not _answers(host.strip("[]"), int(port), within_secs=within_secs):
        raise RuntimeError(
            f"RAY_ADDRESS={named!r} is set, and what listens there does not answer as Ray does, or "
            f"not within {within_secs:g} seconds. Start that cluster (ray start --head), name one "
            "that runs, or unset RAY_ADDRESS for one on this machine."
        )


def _answers(host: str, port: int, *, within_secs: float) -> bool:
    """Tells whether a server of gRPC answers, or with TLS, whether anything does."""
    try:
        with socket.create_connection((host, port), timeout=within_secs) as connection:
            connection.sendall(_FIRST_WORDS)
            header = connection.makefile("rb").read(_HEADER_BYTES)
    except TimeoutError:
        return False
    except OSError:
        header = b""  # it has ended the connection
    if os.environ.get("RAY_USE_TLS", "0") != "0":
        return True
    return len(header) == _HEADER_BYTES and header[_KIND] == _SETTINGS


class _Actors:
    """The actors, and the placement group that keeps room for them."""

    def __init__(self, ray: Any, job: Job, address: str, secret: str, *, is_ours: bool) -> None:
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._ray, self._is_ours = ray, is_ours
        self._bundle = {"CPU": float(1 if is_ours else job.threads or 1)}
        gpus = int(ray.cluster_resources().get("GPU", 0)) // job.workers
        if gpus:  # Ray hides GPUs from actors that have not requested any
            self._bundle["GPU"] = float(gpus)
        self._group = placement_group([self._bundle] * job.workers, strategy="PACK")
        path = inherited_environ()["PYTHONPATH"]
        self._actors, self._runs = [], []
        for rank in range(job.workers):
            actor = ray.remote(_Agent).options(
                num_cpus=self._bundle["CPU"],
                num_gpus=gpus,
                max_restarts=0,
                runtime_env={"env_vars": {"PYTHONPATH": path}},
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, rank),
            )
            holder = actor.remote()
            self._actors.append(holder)
            self._runs.append(holder.serve.remote(address, secret, rank))

    def problem(self) -> str:
        """What Ray says of an actor that has failed."""
        over, _ = self._ray.wait(self._runs, num_returns=len(self._runs), timeout=0)
        for run in over:
            try:
                self._ray.get(run)
            except Exception as error:
                return f"an agent has failed: {error}"
        return ""

    def is_queued(self) -> bool:
        """Whether Ray may still be adding nodes for this."""
        return False

    def end(self) -> None:
        """Ends the actors, and the cluster where it is ours."""
        from ray.util.placement_group import remove_placement_group

        with contextlib.suppress(Exception):  # Ray may have gone already
            self._ray.wait(self._runs, num_returns=len(self._runs), timeout=5)
            for actor in self._actors:
                self._ray.kill(actor)
            remove_placement_group(self._group)
        if self._is_ours:
            self._ray.shutdown()


class _Agent:
    """An actor."""

    def serve(self, address: str, secret: str, rank: int) -> None:
        agent.serve(address, secret=secret, rank=rank)


@contextlib.contextmanager
def _variables(values: dict[str, str]) -> Iterator[None]:
    """Sets variables that Ray reads when it starts, unless the user has."""
    added = {name: value for name, value in values.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)
