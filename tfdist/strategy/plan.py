"""Which strategy follows from the request?  (device spec, cluster, inventory) -> a Plan.

Synopsis:

    >>> from tfdist.strategy.devices import Inventory, parse_device
    >>> plan = decide(parse_device("auto"), None, Inventory(num_gpus=2))
    >>> plan.kind, plan.devices
    ('mirrored', ('/gpu:0', '/gpu:1'))
    >>> plan.reason
    'device=auto, no cluster: no TPU was found; all 2 GPUs'

Facts go in, a decision and its reason come out: nothing here inspects the host or uses TensorFlow.
"""

from __future__ import annotations

import dataclasses

from tfdist.cluster.detection import Cluster
from tfdist.strategy.devices import DeviceSpec, Inventory


@dataclasses.dataclass(frozen=True)
class Plan:
    """A strategy to make, and why."""

    kind: str  # "one_device", "mirrored", "multi_worker" or "tpu"
    devices: tuple[str, ...]  # this worker's, as TensorFlow names them; of a TPU, its address
    cluster: Cluster | None = None  # only for "multi_worker"
    reason: str = ""
    cautions: tuple[str, ...] = ()  # warnings for the user

    @property
    def key(self) -> tuple[object, ...]:
        """What the strategy depends on: plans with the same key make the same strategy."""
        worker = (self.cluster.rank, self.cluster.addresses) if self.cluster else ()
        return (self.kind, self.devices, *worker)

    @property
    def num_workers(self) -> int:
        return self.cluster.size if self.cluster else 1

    @property
    def is_on_gpus(self) -> bool:
        return self.devices[0].startswith("/gpu:")


def decide(spec: DeviceSpec, cluster: Cluster | None, inventory: Inventory) -> Plan:
    """Decides which strategy a request means on this host.

    Args:
        spec: What each worker is asked to train on.
        cluster: Who the workers are; None for this process alone.
        inventory: What this process finds on its host.

    Raises:
        ValueError: The request is contradictory in itself.
        RuntimeError: The requested device is not there. There is no fallback to another one.
    """
    _check_cluster(spec, cluster)
    # An evaluator is outside the training world, in a world of its own with size 1.
    world = cluster if cluster is not None and cluster.size > 1 else None
    choose = {"auto": _auto, "multi_worker": _auto, "cpu": _cpus, "gpu": _gpus, "tpu": _tpu}
    plan = choose[spec.kind](spec, world, inventory)
    plan = dataclasses.replace(plan, reason=f"device={spec}, {_describe(cluster)}: {plan.reason}")
    return dataclasses.replace(plan, kind="multi_worker", cluster=world) if world else plan


def refuse_if_too_late(plan: Plan, inventory: Inventory) -> None:
    """Raises a RuntimeError if TensorFlow has started too early for the plan."""
    if not inventory.is_started:
        return
    if plan.kind == "multi_worker":
        raise RuntimeError(
            f"TensorFlow has already started its runtime, and a strategy over {plan.num_workers}"
            " workers cannot be made after that. Call tfdist.get_strategy before any other"
            " TensorFlow operation: before tensors, datasets, layers and models."
        )
    if plan.kind == "mirrored" and not plan.is_on_gpus and len(plan.devices) > inventory.num_cpus:
        asked = len(plan.devices)
        raise RuntimeError(
            f"device='{asked}xcpu' needs {asked} logical CPUs, but TensorFlow has already started"
            f" its runtime with {inventory.num_cpus}. Call tfdist.get_strategy before any other"
            f" TensorFlow operation, or tfdist.testing.logical_cpus({asked}) first."
        )


def _check_cluster(spec: DeviceSpec, cluster: Cluster | None) -> None:
    if cluster is not None and cluster.task_type == "ps":
        raise RuntimeError(
            f"This process is task_type='ps', a parameter server (from {cluster.source}), which"
            " synchronous training has no use for: the workers reduce gradients among themselves."
            " Leave 'ps' out of the cluster, and start no process for it."
        )
    if cluster is None and spec.kind == "multi_worker":
        raise RuntimeError(
            "device='multi_worker' was asked for, but no cluster was found. Start the workers with"
            " `python -m tfdist.launch --workers=2 script.py`, set TF_CONFIG, or pass"
            " cluster=tfdist.Cluster(...)."
        )


def _describe(cluster: Cluster | None) -> str:
    if cluster is None:
        return "no cluster"
    if cluster.task_type == "evaluator":
        return f"evaluator {cluster.task_index} (from {cluster.source}), outside the training world"
    return f"worker {cluster.rank} of {cluster.size} (from {cluster.source})"


# --------------------------------------------------------------------------------- on which devices


def _auto(spec: DeviceSpec, world: Cluster | None, inventory: Inventory) -> Plan:
    if inventory.tpu and (inventory.can_drive_tpus or inventory.tpu.address != "local"):
        return _tpu(spec, world, inventory)
    no_tpu = "no TPU was found"
    cautions: tuple[str, ...] = ()
    if inventory.tpu:
        no_tpu = "the TPU cannot be used"
        cautions = (
            f"There is a TPU ({inventory.tpu.evidence}), but TensorFlow {inventory.tensorflow} has"
            f" no TPU support, so that it is left unused; {_INSTALL_TPU}.",
        )
    if inventory.num_gpus:
        plan = _gpus(spec, world, inventory)
        reason = f"{no_tpu}; {plan.reason}"
        return dataclasses.replace(plan, reason=reason, cautions=cautions + plan.cautions)
    if inventory.num_nvidia_files and inventory.visible_gpus not in ("", "-1"):
        cautions += (
            f"There are {_count(inventory.num_nvidia_files, 'NVIDIA GPU')}, but TensorFlow"
            f" {inventory.tensorflow} sees none, so that training is on the CPU; device='gpu' says"
            " what is missing.",
        )
    return Plan("one_device", ("/cpu:0",), reason=f"{no_tpu}; no GPU was found", cautions=cautions)


def _cpus(spec: DeviceSpec, world: Cluster | None, inventory: Inventory) -> Plan:
    count = spec.count or 1
    if world and count > 1:
        raise ValueError(
            f"device='{spec}' asks for {count} CPU replicas on each of {world.size} workers"
            f" (cluster from {world.source}), but TensorFlow gives a worker one CPU replica only."
            " Use device='cpu' with more workers, or cluster=None for this process alone."
        )
    kind = "mirrored" if count > 1 else "one_device"
    return Plan(kind, tuple(f"/cpu:{n}" for n in range(count)), reason="as asked for")


def _gpus(spec: DeviceSpec, world: Cluster | None, inventory: Inventory) -> Plan:
    found = inventory.num_gpus
    if not found or any(index >= found for index in spec.indices):
        raise RuntimeError(_missing_gpus(spec, inventory, _count(found, "GPU")))
    if spec.indices:
        return _plan_gpus(spec.indices, "as asked for")
    usable, sharing, cautions = _share(world, inventory)
    count = spec.count or len(usable)
    if not usable or count > len(usable):
        raise RuntimeError(_missing_gpus(spec, inventory, sharing or _count(found, "GPU")))
    everything = "the only GPU" if found == 1 else f"all {found} GPUs"
    reason = "as asked for" if spec.count else sharing or everything
    return _plan_gpus(usable[:count], reason, cautions)


def _plan_gpus(indices: tuple[int, ...], reason: str, cautions: tuple[str, ...] = ()) -> Plan:
    kind = "mirrored" if len(indices) > 1 else "one_device"
    return Plan(kind, tuple(f"/gpu:{n}" for n in indices), reason=reason, cautions=cautions)


def _share(
    world: Cluster | None, inventory: Inventory
) -> tuple[tuple[int, ...], str, tuple[str, ...]]:
    """Divides the GPUs of a host among its workers: two on one GPU cannot reduce with NCCL.

    Returns:
        This worker's GPUs; how they were divided, for messages; warnings.
    """
    found = inventory.num_gpus
    workers = world.local_size if world else 1
    # If a worker sees fewer GPUs than the host has workers, those it sees are its own.
    is_given = inventory.has_own_gpus or (bool(inventory.visible_gpus) and found < workers)
    if world is None or workers == 1 or is_given:
        return tuple(range(found)), "", ()
    count = found // workers
    first = world.local_rank * count
    cautions: tuple[str, ...] = ()
    if inventory.visible_gpus:
        cautions = (
            f"The {workers} workers of this host share the {found} GPUs of CUDA_VISIBLE_DEVICES="
            f"{inventory.visible_gpus!r}. If each has its own there, name them in the device, as in"
            " device='gpu:0,1'.",
        )
    sharing = (
        f"{count} of {_count(found, 'GPU')}, which {workers} workers of this host share evenly"
    )
    return tuple(range(first, first + count)), sharing, cautions


def _missing_gpus(spec: DeviceSpec, inventory: Inventory, found: str) -> str:
    if not inventory.can_drive_gpus:
        cure = (
            f"TensorFlow {inventory.tensorflow} here is built without GPU support: uninstall it and"
            " pip install 'tfdist[gpu]'"
        )
    elif not inventory.num_gpus:
        cure = (
            "Check nvidia-smi, the CUDA libraries (pip install 'tfdist[gpu]' brings them) and"
            f" CUDA_VISIBLE_DEVICES={inventory.visible_gpus!r}"
        )
    else:
        cure = "Ask for those that are there (they count from 0), or start fewer workers on a host"
    return (
        f"device='{spec}' was asked for, but this worker found {found}. {cure}; or use"
        " device='cpu'."
    )


def _tpu(spec: DeviceSpec, world: Cluster | None, inventory: Inventory) -> Plan:
    sight = inventory.tpu
    address = spec.tpu or (sight.address if sight else "")
    if not address:
        raise RuntimeError(
            f"device='{spec}' was asked for, but no TPU was found: no chips in /dev/accel* or"
            " /dev/vfio, and TPU_NAME is not set. Use a host or notebook with a TPU attached, say"
            " which one it is with 'tpu:NAME' or 'tpu:grpc://HOST:PORT', or use device='cpu'."
        )
    if address == "local" and not inventory.can_drive_tpus:  # others have their own TensorFlow
        raise RuntimeError(
            f"device='{spec}' was asked for, but TensorFlow {inventory.tensorflow} here has no TPU"
            f" support: {_INSTALL_TPU}; or use device='cpu'."
        )
    if world:
        raise RuntimeError(
            f"device='{spec}' means a TPU ({sight.evidence if sight else address}), but there is"
            f" also a cluster of {world.size} workers (from {world.source}), and one process drives"
            " a TPU with all its hosts. Pass cluster=None, or device='cpu' or 'gpu' for the"
            " cluster."
        )
    if sight and address == "local" and sight.num_hosts > 1:
        raise RuntimeError(
            f"device='{spec}' means {sight.evidence}, but they are a part of a slice of"
            f" {sight.num_hosts} hosts (TPU_WORKER_HOSTNAMES). Name the whole slice with"
            " 'tpu:NAME' or TPU_NAME, in one process."
        )
    reason = "as asked for" if spec.tpu or sight is None else sight.evidence
    return Plan("tpu", (address,), reason=reason)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


_INSTALL_TPU = (
    "uninstall tensorflow and tensorflow-cpu, pip install 'tfdist[tpu]' and restart the process"
)
