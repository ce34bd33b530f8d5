"""Which strategy do I train on, and why that one?  get_strategy(device) and describe(strategy).

Synopsis:

    >>> strategy = get_strategy("2xcpu")
    >>> print(describe(strategy))
    MirroredStrategy: replicas=2 workers=1 rank=0
      devices: /cpu:0, /cpu:1
      why: device=2xcpu, no cluster: as asked for
    >>> get_strategy("2xcpu") is strategy
    True

It has three steps that can be read one by one: devices.py reads the request and inspects the host,
plan.py decides, bring_up.py makes the strategy.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Iterable
from typing import Any

import tensorflow as tf

from tfdist.cluster.detection import Cluster, detect_cluster
from tfdist.cluster.meeting import meet
from tfdist.cluster.tf_config import TRAINING_TYPES
from tfdist.compat import private_names
from tfdist.compat.notes import note_of
from tfdist.strategy.bring_up import make_strategy
from tfdist.strategy.devices import DeviceSpec, Inventory, parse_device, take_inventory
from tfdist.strategy.plan import Plan, decide

_LOG = logging.getLogger("tfdist")


@dataclasses.dataclass(frozen=True)
class _Made:
    strategy: tf.distribute.Strategy
    plan: Plan
    inventory: Inventory


# What this process has made, by request, the latest request last. A strategy stands for hardware
# that is set up once: a TPU loses its variables when it is initialized again, and a process can
# join one cluster in its life.
_made: dict[tuple[DeviceSpec, Cluster | None], _Made] = {}


def get_strategy(
    device: str = "auto", *, cluster: Cluster | str | None = "auto"
) -> tf.distribute.Strategy:
    """Returns the strategy for a device and a cluster; the same one for the same arguments.

    Call it before any other TensorFlow operation: logical CPUs and clusters can only be set up
    before TensorFlow starts. The choice and its reason are logged by the logger "tfdist".

    Args:
        device: What each worker trains on: "auto" (a TPU, else the GPUs, else the CPU), "cpu",
            "4xcpu" (logical CPUs), "gpu" (all), "2xgpu" (the first two), "gpu:0,3" (by number),
            "tpu", "tpu:NAME", "tpu:grpc://HOST:PORT", or "multi_worker" ("auto", in a cluster).
            Workers on one host share its GPUs evenly, except those named by number.
        cluster: Who the workers are: "auto" for what the environment says, None for this process
            alone, or a Cluster.

    Returns:
        A OneDeviceStrategy, MirroredStrategy, MultiWorkerMirroredStrategy or TPUStrategy.

    Raises:
        ValueError: The device or cluster is invalid, or the environment contradicts itself.
        RuntimeError: The device is not there, or TensorFlow has started too early.
        ImportError: This Keras or TensorFlow lacks a private name that tfdist needs.
    """
    private_names.check()
    request = (parse_device(device), _find_cluster(cluster))
    if request not in _made:
        _made[request] = _make(*request)
    made = _made[request] = _made.pop(request)  # moves the latest request to the end
    return made.strategy


def describe(strategy: tf.distribute.Strategy) -> str:
    """Says in a few lines what a strategy trains on, and why it was chosen.

    Args:
        strategy: Any strategy, made by `get_strategy` or not.

    Returns:
        Its class, the replicas and workers, this worker's rank and devices, and the reason; and
        which steps of models were checked on it, and with what outcome.
    """
    if not isinstance(strategy, tf.distribute.Strategy):
        raise ValueError(f"strategy={strategy!r} is not a tf.distribute.Strategy; pass one.")
    rank, num_workers = _rank_and_size(strategy)
    made = next((made for made in reversed(_made.values()) if made.strategy is strategy), None)
    why = made.plan.reason if made else "not made by tfdist.get_strategy"
    name = re.sub(r"V[12]$", "", type(strategy).__name__)
    name = _PUBLIC_NAMES.get(name, name)
    checked = note_of(strategy, "checked_steps", {})
    return "\n".join([
        f"{name}: replicas={strategy.num_replicas_in_sync} workers={num_workers} rank={rank}",
        f"  devices: {_devices(strategy)}",
        f"  why: {why}",
        *(f"  checked: {step}: {found}" for step, found in checked.items()),
    ])


def made_strategies() -> tuple[tf.distribute.Strategy, ...]:
    """Returns the strategies that `get_strategy` made in this process, the latest asked for last.

    >>> strategy = get_strategy("cpu")
    >>> made_strategies()[-1] is strategy
    True
    """
    return tuple(made.strategy for made in _made.values())


def refuse_outside_scope() -> None:
    """Raises a ValueError if training without a strategy is surely not intended.

    That is so if the latest strategy has several replicas or, without any strategy, if the
    environment says that this process is one worker of several.
    """
    cure = "Make and compile the model inside `with tfdist.get_strategy(...).scope():`"
    if _made:
        replicas = made_strategies()[-1].num_replicas_in_sync
        if replicas > 1:
            raise ValueError(
                "This model was made outside any strategy's scope, but tfdist.get_strategy made a"
                f" strategy of {replicas} replicas, of which it would use none. {cure}, or ask for"
                " device='cpu'."
            )
        return
    cluster = detect_cluster(os.environ)
    if cluster is not None and cluster.size > 1:
        raise ValueError(
            "This model was made outside any strategy's scope, but this process is worker"
            f" {cluster.rank} of {cluster.size} (from {cluster.source}), and each would train"
            f" alone. {cure}, with cluster=None where it is meant to be alone."
        )


def refuse_variables_outside(
    strategy: tf.distribute.Strategy, variables: Iterable[Any]
) -> None:
    """Raises a ValueError if Keras variables were not made in the scope of the strategy."""
    is_inside = strategy.extended.variable_created_in_scope
    outside = [v.path for v in variables if not is_inside(v.value)]
    if outside:
        raise ValueError(
            f"The variable {outside[0]!r} was made outside the scope of the strategy that the"
            " model was made in. Make the optimizer inside `with strategy.scope():` too."
        )


def _find_cluster(cluster: object) -> Cluster | None:
    if cluster is None or isinstance(cluster, Cluster):
        return cluster
    if cluster == "auto":
        return meet(detect_cluster(os.environ))
    raise ValueError(
        f"cluster={cluster!r} is neither 'auto', None nor a tfdist.Cluster; pass one of these."
    )


def _make(spec: DeviceSpec, cluster: Cluster | None) -> _Made:
    joined = next((made for made in _made.values() if made.plan.kind == "multi_worker"), None)
    inventory = take_inventory()
    if joined:  # joining may have hidden the GPUs of this host's other workers
        inventory = dataclasses.replace(inventory, num_gpus=joined.inventory.num_gpus)
    plan = decide(spec, cluster, inventory)
    same = next((made for made in _made.values() if made.plan.key == plan.key), None)
    if joined and plan.kind == "multi_worker" and not same:
        raise RuntimeError(
            "This process has joined a cluster already, and can join only one in its life"
            f" ({joined.plan.reason}; now asked for: {plan.reason}). Start a new process."
        )
    _LOG.info("%s on %s; %s", plan.kind, ", ".join(plan.devices), plan.reason)
    for caution in plan.cautions:
        _LOG.warning("%s", caution)
    if same:
        return dataclasses.replace(same, plan=plan)
    return _Made(
        make_strategy(plan, inventory, use_collectives=not _uses_collectives()), plan, inventory
    )


def _uses_collectives() -> bool:
    made = [made.plan for made in _made.values()]
    return any(plan.kind == "mirrored" and plan.is_on_gpus for plan in made)


def _rank_and_size(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Returns this worker's rank and the number of workers, by the strategy's public facts."""
    resolver = strategy.cluster_resolver
    if not isinstance(strategy, tf.distribute.MultiWorkerMirroredStrategy) or resolver is None:
        return 0, 1
    jobs = resolver.cluster_spec().as_dict()
    tasks = [(job, n) for job in TRAINING_TYPES for n in range(len(jobs.get(job, ())))]
    task = (resolver.task_type, resolver.task_id)
    return (tasks.index(task), len(tasks)) if task in tasks else (0, 1)


def _devices(strategy: tf.distribute.Strategy) -> str:
    try:
        return ", ".join(map(_short_name, strategy.extended.worker_devices))
    except RuntimeError:  # the default strategy has no devices of its own
        return "where TensorFlow places them"


def _short_name(device: str) -> str:
    """Writes "/job:localhost/replica:0/task:0/device:CPU:0" as "/cpu:0"."""
    job, _, name = device.rpartition("/device:")
    if "job:" not in job or "job:localhost" in job:
        return f"/{name.lower()}"
    return f"{job}/{name.lower()}"


_PUBLIC_NAMES = {"CollectiveAllReduceStrategy": "MultiWorkerMirroredStrategy"}
