"""What is known of this host and its Python, without starting TensorFlow?

All of it is plain, so that it can be written down where the trouble is, and read elsewhere.
"""

from __future__ import annotations

import dataclasses
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import re
import shutil
import sys
import tempfile
from collections.abc import Mapping
from typing import Any

from tfdist.cli.health import host
from tfdist.cluster import environments

TENSORFLOWS = (
    "tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tensorflow-gpu", "tensorflow-rocm",
    "tensorflow-intel", "tensorflow-aarch64", "tensorflow-macos", "tf-nightly", "tf-nightly-cpu",
    "tf-nightly-tpu",
)  # fmt: skip
_PACKAGES = (
    *TENSORFLOWS, "tensorflow-text", "tf-keras", "keras", "keras-nightly", "numpy", "protobuf",
    "absl-py", "cloudpickle", "libtpu", "libtpu-nightly", "jax", "jaxlib", "h5py", "ml-dtypes",
    "keras-hub", "regex", "tokenizers", "ray", "distributed", "pyspark", "pyarrow", "tensorboard",
    "nvidia-cudnn-cu12", "nvidia-cudnn-cu13", "nvidia-nccl-cu12", "nvidia-nccl-cu13",
)  # fmt: skip
_PREFIXES = (
    "TF_", "KERAS_", "XLA_", "CUDA_", "NVIDIA_", "NCCL_", "GRPC_", "RAY_", "OMP_", "TPU_",
    "TFDIST_", "SLURM_", "OMPI_COMM_WORLD_", "PMI_", "PMIX_", "MV2_COMM_WORLD_", "SM_", "JSM_",
    "LSB_", "PET_", "ONEDNN_", "DNNL_",
)  # fmt: skip
_NAMES = (
    *environments.RECOGNISED_BY, "MASTER_ADDR", "MASTER_PORT", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
    "KUBERNETES_SERVICE_HOST", "PYTHONPATH", "PYTHONHASHSEED", "LD_LIBRARY_PATH", "TMPDIR",
    "http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "no_grpc_proxy",
)  # fmt: skip
_OTHERS = ("TF_VAR_", "TF_CLI_")  # Terraform's, which may hold anything
_SECRET = re.compile("TOKEN|SECRET|PASSWORD|CREDENTIAL|API_KEY|ACCESS_KEY")
_LOGIN = re.compile(r"(\w+://)[^/@\s]*@")


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about a host and the Python that would train there.

    Attributes:
        tfdist: Its version, and the folder that it lies in.
        python: Python's version, and the program.
        system: The operating system.
        machine: The kind of processor, such as "x86_64".
        packages: Versions of the packages that matter, by name.
        environ: Variables that matter, by name, without secrets.
        keras_json: The backend that ~/.keras/keras.json names; "" where it names none.
        cores: Cores that this process may use, and those that its container may keep busy.
        memory_bytes: Memory of this container or host, and what of it is available.
        shm_bytes: The size of /dev/shm; None where there is none.
        disk: The folder of temporary files, and the bytes free there.
        cpu_flags: What the processor can do, as far as it matters: "avx", "avx2", ...
        limits: What `ulimit` says: "open files" and "processes"; -1 for no limit.
        nvidia_files: Device files of NVIDIA GPUs.
        has_ray_token: Whether Ray finds a token in its own file.
        clock: The time here, and how far it is behind the newest file of Python's packages, in
            seconds; a clock that is right is not behind.
    """

    tfdist: tuple[str, str] = ("", "")
    python: tuple[str, str] = ("", "")
    system: str = ""
    machine: str = ""
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    environ: Mapping[str, str] = dataclasses.field(default_factory=dict)
    keras_json: str = ""
    cores: tuple[int, float] = (1, 1.0)
    memory_bytes: tuple[int, int] = (0, 0)
    shm_bytes: int | None = None
    disk: tuple[str, int] = ("", 0)
    cpu_flags: tuple[str, ...] = ()
    limits: Mapping[str, int] = dataclasses.field(default_factory=dict)
    nvidia_files: int = 0
    has_ray_token: bool = False
    clock: tuple[str, float] = ("", 0.0)


def collect(
    environ: Mapping[str, str] | None = None,
    *,
    root: pathlib.Path = pathlib.Path("/"),
    path: list[str] | None = None,
) -> Facts:
    """Looks at this host.

    Args:
        environ: Variables by name; those of this process by default.
        root: Where /proc, /sys and /dev are found.
        path: Where packages are looked for; sys.path by default.
    """
    package = sys.modules["tfdist"]
    folder = os.path.dirname(os.path.abspath(str(package.__file__)))
    environ = os.environ if environ is None else environ
    temporary = tempfile.gettempdir()
    return Facts(
        tfdist=(package.__version__, folder),
        python=(platform.python_version(), sys.executable),
        system=platform.platform(),
        machine=platform.machine(),
        packages=versions(path),
        environ=shown_environ(environ),
        keras_json=_backend(environ),
        cores=host.cores(root),
        memory_bytes=host.memory_bytes(root),
        shm_bytes=host.size_of(root / "dev" / "shm"),
        disk=(temporary, shutil.disk_usage(temporary).free),
        cpu_flags=host.cpu_flags(root),
        limits=host.limits(),
        nvidia_files=len(list((root / "dev").glob("nvidia[0-9]*"))),
        has_ray_token=pathlib.Path(os.path.expanduser("~"), ".ray", "auth_token").is_file(),
        clock=(
            datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            round(host.secs_behind(pathlib.Path(folder)), 1),
        ),
    )


def versions(path: list[str] | None = None) -> dict[str, str]:
    """Returns the versions of the packages that matter and are installed."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=sys.path if path is None else path):
        name = re.sub("[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name in _PACKAGES:
            found.setdefault(name, distribution.version)  # the first on the path is imported
    return {name: found[name] for name in _PACKAGES if name in found}


def shown_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that matter; of a secret, that it is set, and nothing more."""
    found = {}
    for name, value in sorted(environ.items()):
        if name.startswith(_OTHERS):
            continue
        if name.startswith(_PREFIXES) or name in _NAMES:
            found[name] = "(set)" if _SECRET.search(name) else _LOGIN.sub(r"\1", value)
    return found


def to_json(facts: Facts) -> str:
    """Writes facts down."""
    return json.dumps(dataclasses.asdict(facts), indent=1)


def from_json(text: str) -> Facts:
    """Reads facts that were written down elsewhere.

    Raises:
        ValueError: They are none.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise ValueError(
            f"It is no JSON ({error}). Make a report with `tfdist doctor --json`."
        ) from None
    found = found.get("facts", found) if isinstance(found, dict) else None
    fields = {field.name: field for field in dataclasses.fields(Facts)}
    if not isinstance(found, dict) or not {"python", "packages"} <= set(found):
        raise ValueError(
            "It holds no report. Make one with `tfdist doctor --json` or `tfdist env --json`."
        )
    return Facts(**{name: _plain(found[name]) for name in found if name in fields})


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _backend(environ: Mapping[str, str]) -> str:
    """Returns the backend that Keras's own file names."""
    home = environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    try:
        found = json.loads(pathlib.Path(home, "keras.json").read_text())
        return str(found.get("backend", ""))
    except (OSError, ValueError, AttributeError):
        return ""
