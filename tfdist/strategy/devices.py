"""What was requested, and what is on this host?  Device specs, GPUs, logical CPUs, TPU chips.

Synopsis:

    >>> parse_device("2xGPU")
    DeviceSpec(kind='gpu', count=2, indices=(), tpu='')
    >>> str(parse_device("gpu:0,3")), str(parse_device("tpu:my-tpu"))
    ('gpu:0,3', 'tpu:my-tpu')
    >>> take_inventory().num_cpus
    4

Reading a spec needs no TensorFlow; taking the inventory imports it, and starts nothing.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from tfdist.cluster.wording import shorten

KINDS = ("auto", "cpu", "gpu", "tpu", "multi_worker")
FORMS = (
    '"auto", "cpu", "4xcpu", "gpu", "2xgpu", "gpu:1", "gpu:0,3", "tpu", "tpu:NAME",'
    ' "tpu:grpc://HOST:PORT", "multi_worker"'
)

_COUNTED = re.compile(r"([0-9]+)x(cpu|gpu)", re.ASCII)
_INDICES = re.compile(r"gpu:([0-9]+(?:,[0-9]+)*)", re.ASCII)
_TPU_NAME = re.compile(r"[A-Za-z](?:[A-Za-z0-9_-]*[A-Za-z0-9])?", re.ASCII)
_TPU_ADDRESS = re.compile(r"grpc://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", re.ASCII)

_GOOGLE_PCI_VENDOR = "0x1ae0"
# Variables under which schedulers give each worker GPUs of its own, instead of all of the host's.
_GPU_BINDINGS = ("SLURM_GPUS_PER_TASK", "SLURM_GPU_BIND", "RAY_RAYLET_PID")


@dataclasses.dataclass(frozen=True)
class DeviceSpec:
    """What each worker is asked to train on."""

    kind: str  # one of KINDS
    count: int | None = None  # devices per worker; None for all there are, and for "auto"
    indices: tuple[int, ...] = ()  # GPUs by their number on this host, in the order of replicas
    tpu: str = ""  # a TPU's name, "local", or "grpc://host:port"; "" for the one that is found

    def __str__(self) -> str:
        """Writes the spec as the user would: `parse_device(str(spec)) == spec`."""
        if self.indices:
            return f"gpu:{','.join(map(str, self.indices))}"
        if self.tpu:
            return f"tpu:{self.tpu}"
        is_plain = self.count is None or (self.kind, self.count) == ("cpu", 1)
        return self.kind if is_plain else f"{self.count}x{self.kind}"


def parse_device(device: object) -> DeviceSpec:
    """Reads a device spec.

    Args:
        device: A text like "4xcpu"; upper and lower case mean the same, except in a TPU's name.

    Raises:
        ValueError: It has none of the known forms; the message lists them.
    """
    if not isinstance(device, str):
        raise _refusal(device, "is not a text")
    text = device.strip()
    lowered = text.lower()
    if lowered in KINDS:
        return DeviceSpec(lowered, count=1 if lowered == "cpu" else None)
    if found := _COUNTED.fullmatch(lowered):
        count = int(found[1]) if len(found[1]) < 10 else 0
        if count < 1:
            asked = found[1] if len(found[1]) < 20 else "too many"
            raise _refusal(device, f"asks for {asked} devices, where 1 or more are needed")
        return DeviceSpec(found[2], count=count)
    if found := _INDICES.fullmatch(lowered):
        if len(found[1]) > 1000:
            raise _refusal(device, "names too many GPUs")
        indices = tuple(map(int, found[1].split(",")))
        if len(set(indices)) < len(indices):
            raise _refusal(device, "names a GPU twice")
        return DeviceSpec("gpu", count=len(indices), indices=indices)
    if lowered.startswith("tpu:"):
        return DeviceSpec("tpu", tpu=_read_tpu(device, text[len("tpu:") :]))
    if re.fullmatch(r"[0-9]+xtpu", lowered, re.ASCII):
        raise _refusal(device, "counts TPUs, which are used whole")
    raise _refusal(device, "is not a device")


def _read_tpu(device: str, target: str) -> str:
    if target.lower() == "local":
        return "local"
    if found := _TPU_ADDRESS.fullmatch(target):
        if 0 < int(found[1]) < 65536:
            return target
        raise _refusal(device, "has a port that is not between 1 and 65535")
    if _TPU_NAME.fullmatch(target):
        return target
    raise _refusal(device, "gives neither a TPU's name nor its address")


def _refusal(device: object, problem: str) -> ValueError:
    shown = shorten(device, limit=80)
    return ValueError(f"device={shown} {problem}; use one of these forms: {FORMS}.")


# ---------------------------------------------------------------------------------------- inventory


@dataclasses.dataclass(frozen=True)
class TpuSight:
    """A TPU that this process seems to have."""

    address: str  # "local", a name, or "grpc://host:port"
    evidence: str  # how it was found
    num_hosts: int = 1  # hosts of the slice that its chips belong to, if known


@dataclasses.dataclass(frozen=True)
class Inventory:
    """What this process finds on its host."""

    num_cpus: int = 1  # logical CPUs, as configured or running
    num_gpus: int = 0  # logical GPUs that this process may see
    visible_gpus: str | None = None  # CUDA_VISIBLE_DEVICES, where it is set
    has_own_gpus: bool = False  # a scheduler gave this worker GPUs that no other worker has
    can_drive_gpus: bool = False  # whether this TensorFlow is built for GPUs at all
    is_started: bool = False  # whether the runtime runs, so that devices cannot be changed
    num_nvidia_files: int = 0  # device files of NVIDIA GPUs, whatever TensorFlow sees
    tpu: TpuSight | None = None
    can_drive_tpus: bool = False  # whether this TensorFlow has a TPU's operations
    tensorflow: str = ""  # its version


def take_inventory(environ: Mapping[str, str] | None = None) -> Inventory:
    """Looks at this host, without starting TensorFlow's runtime or asking the network.

    Args:
        environ: Variables by name; those of this process by default.
    """
    import tensorflow as tf

    from tfdist.compat import tf_internals

    environ = os.environ if environ is None else environ
    return Inventory(
        num_cpus=_count_logical("CPU"),
        num_gpus=_count_logical("GPU"),
        visible_gpus=environ.get("CUDA_VISIBLE_DEVICES"),
        has_own_gpus=has_own_gpus(environ),
        can_drive_gpus=tf.test.is_built_with_gpu_support(),
        is_started=is_runtime_started(),
        num_nvidia_files=len(list(pathlib.Path("/dev").glob("nvidia[0-9]*"))),
        tpu=find_tpu(environ),
        # The operation without the underscore has no kernel anywhere: it is rewritten to this one.
        can_drive_tpus=tf_internals.has_kernel("_ConfigureDistributedTPU"),
        tensorflow=tf.__version__,
    )


def is_runtime_started() -> bool:
    """Tells whether TensorFlow has started, after which devices cannot be configured any more.

    TensorFlow has no public function for it, but refuses a new number of threads from then on.
    """
    import tensorflow as tf

    threads = tf.config.threading.get_inter_op_parallelism_threads()
    try:
        tf.config.threading.set_inter_op_parallelism_threads(threads + 1)
    except RuntimeError:
        return True
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    return False


def has_own_gpus(environ: Mapping[str, str]) -> bool:
    """Tells whether the GPUs that this worker sees are its own, not shared by its host's workers.

    >>> has_own_gpus({"CUDA_VISIBLE_DEVICES": "2,3", "SLURM_GPUS_PER_TASK": "2"})
    True
    """
    return bool(environ.get("CUDA_VISIBLE_DEVICES")) and any(map(environ.get, _GPU_BINDINGS))


def find_tpu(
    environ: Mapping[str, str],
    *,
    dev: pathlib.Path = pathlib.Path("/dev"),
    pci: pathlib.Path = pathlib.Path("/sys/bus/pci/devices"),
) -> TpuSight | None:
    """Finds the TPU that "tpu" means, by the variables and the chips of this host.

    A variable that names a TPU comes first, as for TensorFlow itself, then chips of this host, and
    then the variables by which images of notebook services show that they are made for a TPU.

    Args:
        environ: Variables by name.
        dev: Folder of device files.
        pci: Folder of PCI devices.
    """
    for name, read in _TPU_VARIABLES:
        if environ.get(name) and (address := read(environ[name])):
            return TpuSight(address, f"{name}={environ[name][:80]!r}")
    if num_chips := count_tpu_chips(dev=dev, pci=pci):
        hosts = environ.get("TPU_WORKER_HOSTNAMES", "").split(",")
        evidence = f"{num_chips} TPU chip{'s' * (num_chips > 1)} in {dev}"
        return TpuSight("local", evidence, num_hosts=len(hosts))
    for name, value in (("TPU_PROCESS_ADDRESSES", "local"), ("ISTPUVM", "1")):
        if environ.get(name) == value:
            return TpuSight("local", f"{name}={value!r}")
    return None


def count_tpu_chips(*, dev: pathlib.Path, pci: pathlib.Path) -> int:
    """Counts the device files of TPU chips.

    They are /dev/accel0 ... up to v4, /dev/vfio/0 ... from v5e on. Other makers' accelerators lie
    in a folder /dev/accel, and any PCI device can be under vfio: there Google's vendor number
    has to be on the bus.
    """
    if chips := len(list(dev.glob("accel[0-9]*"))):
        return chips
    groups = len(list(dev.glob("vfio/[0-9]*")))
    return groups if groups and _GOOGLE_PCI_VENDOR in map(_read_vendor, pci.glob("*/vendor")) else 0


def _read_vendor(path: pathlib.Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _count_logical(kind: str) -> int:
    import tensorflow as tf

    if is_runtime_started():
        return len(tf.config.list_logical_devices(kind))
    configured = map(
        tf.config.get_logical_device_configuration, tf.config.get_visible_devices(kind)
    )
    return sum(len(parts) if parts else 1 for parts in configured)


def _tpu_of_config(text: str) -> str:
    """Reads the TPU's name from TPU_CONFIG, a JSON object; "" if it is not one."""
    try:
        config: Any = json.loads(text)
    except ValueError:
        return ""
    name = config.get("tpu_node_name") if isinstance(config, dict) else None
    return name if isinstance(name, str) else ""


def _with_scheme(address: str) -> str:
    return address if address.startswith("grpc://") else f"grpc://{address}"


_TPU_VARIABLES = (
    ("TPU_NAME", str),
    ("KUBE_GOOGLE_CLOUD_TPU_ENDPOINTS", _with_scheme),
    ("TPU_CONFIG", _tpu_of_config),
    ("COLAB_TPU_ADDR", _with_scheme),
)
