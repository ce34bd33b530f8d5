"""Which TPU, image and TensorFlow are here, and do they go together?

Synopsis:

    >>> facts = Facts(image="colab", python=(3, 12), num_chips=1, packages={"keras": "3.13.0"})
    >>> print("\\n".join(advice(facts)[:2]))
    TensorFlow: none is installed. Run, and restart the runtime:
      pip install -q 'tensorflow-tpu==2.20.0' 'libtpu==0.0.31'

Nothing is imported here that could access a TPU: with the wrong libtpu, importing TensorFlow does
not fail but ends the process.
"""

from __future__ import annotations

import dataclasses
import importlib.metadata
import os
import pathlib
import sys
from collections.abc import Mapping

from tfdist.strategy.devices import count_tpu_chips, find_tpu

# What the extra `tpu` installs.
TENSORFLOW_TPU = "2.20.0"
LIBTPU, LIBTPU_FOR_OLD_PYTHON = "0.0.31", "0.0.21"
_FIRST_BAD_LIBTPU = (0, 0, 32)  # from here on the import of tensorflow-tpu 2.20 aborts
_TENSORFLOWS = ("tensorflow", "tensorflow-cpu", "tensorflow-tpu", "tf-nightly", "tf-nightly-tpu")
_ASKED = (*_TENSORFLOWS, "libtpu", "libtpu-nightly", "keras", "jax")


@dataclasses.dataclass(frozen=True)
class Facts:
    """Facts about a host.

    Attributes:
        image: "colab", "kaggle", "gke", "tpu_vm" or "other".
        python: Major and minor version.
        num_chips: TPU chips of this host.
        evidence: What else shows that there is a TPU; "" if nothing does.
        packages: Versions of the relevant packages that are installed, by name.
        holders: Processes that hold a chip: number and command.
    """

    image: str = "other"
    python: tuple[int, int] = (3, 11)
    num_chips: int = 0
    evidence: str = ""
    packages: Mapping[str, str] = dataclasses.field(default_factory=dict)
    holders: tuple[tuple[int, str], ...] = ()

    @property
    def has_tpu(self) -> bool:
        return bool(self.num_chips or self.evidence)


def main_lines() -> list[str]:
    """Returns what `tfdist doctor --tpu` prints: what is here, and what to do."""
    facts = collect(os.environ)
    return [*description(facts), *advice(facts)]


def collect(
    environ: Mapping[str, str],
    *,
    dev: pathlib.Path = pathlib.Path("/dev"),
    pci: pathlib.Path = pathlib.Path("/sys/bus/pci/devices"),
    proc: pathlib.Path = pathlib.Path("/proc"),
) -> Facts:
    """Looks at this host, without touching a TPU.

    Args:
        environ: Variables by name.
        dev: Folder of device files.
        pci: Folder of PCI devices.
        proc: Folder of processes.
    """
    num_chips = count_tpu_chips(dev=dev, pci=pci)
    sight = find_tpu(environ, dev=dev, pci=pci)
    return Facts(
        image=image_of(environ, has_chips=num_chips > 0),
        python=(sys.version_info[0], sys.version_info[1]),
        num_chips=num_chips,
        evidence=sight.evidence if sight else "",
        packages=_versions(),
        holders=find_holders(proc, dev=dev),
    )


def image_of(environ: Mapping[str, str], *, has_chips: bool) -> str:
    """Returns which image a host runs, by the variables that each sets.

    >>> image_of({"COLAB_RELEASE_TAG": "release-colab-20260801"}, has_chips=False)
    'colab'
    """
    for image, names in _VARIABLES:
        if any(environ.get(name) for name in names):
            return image
    return "tpu_vm" if has_chips or environ.get("TPU_ACCELERATOR_TYPE") else "other"


def find_holders(proc: pathlib.Path, *, dev: pathlib.Path) -> tuple[tuple[int, str], ...]:
    """Returns the processes that hold a chip open, as far as this user may see them."""
    chips = (f"{dev}/accel", f"{dev}/vfio/")
    found = []
    for folder in sorted(proc.glob("[0-9]*"), key=lambda path: int(path.name)):
        try:
            opened = [os.readlink(link) for link in (folder / "fd").iterdir()]
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
        except OSError:  # it has ended, or is another user's
            continue
        if any(target.startswith(chips) and target[-1].isdigit() for target in opened):
            found.append((int(folder.name), command[:100]))
    return tuple(found)


def description(facts: Facts) -> list[str]:
    """Says what is here."""
    tpu = f"{facts.num_chips} chip(s)" if facts.num_chips else "no chip"
    tpu += f"; {facts.evidence}" if facts.evidence else ""
    packages = ", ".join(f"{name} {version}" for name, version in sorted(facts.packages.items()))
    lines = [
        f"image: {_NAMES[facts.image]}",
        f"TPU: {tpu}",
        f"Python {facts.python[0]}.{facts.python[1]}; {packages or 'none of the packages'}",
    ]
    return lines + [f"held by process {pid}: {command}" for pid, command in facts.holders]


def advice(facts: Facts) -> list[str]:
    """Says what to do so that get_strategy("tpu") works, with the exact commands."""
    lines = []
    if not facts.has_tpu:
        lines.append(f"TPU: none is attached. {_ATTACH[facts.image]}")
    elif problem := problem_of_packages(facts):  # which only matters with a TPU
        lines.append(f"TensorFlow: {problem}. Run, and {_RESTART[facts.image]}:")
        lines += [f"  {command}" for command in pip_commands(facts)]
    for pid, _ in facts.holders:
        lines.append(
            f"TPU: process {pid} holds it, and a TPU has one process at a time. End that process"
            " (or restart the other notebook) first."
        )
    if facts.has_tpu and not lines:
        lines.append('All of it goes together: tfdist.get_strategy("tpu") should work.')
    return lines


def problem_of_packages(facts: Facts) -> str | None:
    """Returns why the installed TensorFlow cannot use a TPU, or None if it can."""
    installed = [name for name in _TENSORFLOWS if name in facts.packages]
    if not installed:
        return "none is installed"
    if len(installed) > 1:
        return f"{' and '.join(installed)} are installed over each other"
    if installed != ["tensorflow-tpu"]:
        return f"{installed[0]} has no TPU support"
    libtpu = facts.packages.get("libtpu")
    if libtpu is None:
        return "tensorflow-tpu is installed without libtpu"
    if _numbers(libtpu) >= _FIRST_BAD_LIBTPU:
        return (
            f"with libtpu {libtpu} the import of tensorflow-tpu {facts.packages['tensorflow-tpu']}"
            " ends the process"
        )
    return None


def pip_commands(facts: Facts) -> list[str]:
    """Returns the commands that install a pair that works, in their order."""
    unwanted = [
        name
        for name in (*_TENSORFLOWS, "libtpu", "libtpu-nightly")
        if name in facts.packages and (name, facts.packages[name]) not in _wanted(facts)
    ]
    pins = " ".join(f"'{name}=={version}'" for name, version in _wanted(facts))
    remove = [f"pip uninstall -q -y {' '.join(unwanted)}"] if unwanted else []
    # The packages share a folder: files that uninstalling one removes must be restored.
    again = "--force-reinstall --no-deps " if "tensorflow-tpu" in facts.packages else ""
    return [*remove, f"pip install -q {again}{pins}"]


def _wanted(facts: Facts) -> tuple[tuple[str, str], ...]:
    libtpu = LIBTPU if facts.python >= (3, 11) else LIBTPU_FOR_OLD_PYTHON
    return (("tensorflow-tpu", TENSORFLOW_TPU), ("libtpu", libtpu))


def _versions() -> dict[str, str]:
    found = {}
    for name in _ASKED:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _numbers(version: str) -> tuple[int, ...]:
    """Returns the leading numbers of a version.

    >>> _numbers("0.0.32.1"), _numbers("0.0.31.dev2")
    ((0, 0, 32, 1), (0, 0, 31))
    """
    numbers: list[int] = []
    for part in version.split("."):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


_VARIABLES = (
    ("colab", ("COLAB_RELEASE_TAG", "COLAB_TPU_ADDR", "COLAB_GPU", "COLAB_BACKEND_VERSION")),
    ("kaggle", ("KAGGLE_KERNEL_RUN_TYPE", "KAGGLE_URL_BASE")),
    ("gke", ("KUBERNETES_SERVICE_HOST",)),
)
_NAMES = {
    "colab": "Google Colab",
    "kaggle": "Kaggle",
    "gke": "a container on Kubernetes",
    "tpu_vm": "a TPU VM",
    "other": "none of those that have TPUs",
}
_ATTACH = {
    "colab": "Choose Runtime > Change runtime type > v5e-1 TPU (or another TPU).",
    "kaggle": "Choose Settings > Accelerator > TPU.",
    "gke": "Ask for it in the pod's specification: resources.limits google.com/tpu.",
    "tpu_vm": "Look at `ls /dev/accel* /dev/vfio`, and at the TPU's state in the console.",
    "other": "Without one: tfdist.tpu.preflight tells whether a model would train on it.",
}
_RESTART = {
    "colab": "restart the runtime",
    "kaggle": "restart the kernel",
    "gke": "start the container anew, or put it into its image",
    "tpu_vm": "start a new process",
    "other": "start a new process",
}
