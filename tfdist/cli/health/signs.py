"""What shows that something is wrong with a host?  Each sign reads facts, and says what it saw.

It says "" where nothing is wrong; what is unknown counts as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tfdist.cli.health.facts import TENSORFLOWS, Facts
from tfdist.cli.health.rule import Versions, numbers, version_of

YES = ("1", "true", "True")  # as TensorFlow reads a variable
_MB, _GB = 10**6, 10**9
_MIB = 2**20


def tensorflows(facts: Facts) -> list[str]:
    """Names the distributions of TensorFlow that are installed."""
    return [f"{name} {facts.packages[name]}" for name in TENSORFLOWS if name in facts.packages]


def two_tensorflows(facts: Facts) -> str:
    """Several distributions of TensorFlow."""
    found = tensorflows(facts)
    if len(found) < 2 or brought_by_text(facts):
        return ""
    return f"{' and '.join(found)} are installed in one directory"


def brought_by_text(facts: Facts) -> str:
    """Two of them, since tensorflow-text asks for one by name."""
    has = facts.packages
    if "tensorflow-text" in has and "tensorflow" in has and "tensorflow-cpu" in has:
        return f"tensorflow-text {has['tensorflow-text']} has brought tensorflow beside " \
            "tensorflow-cpu"
    return ""


def hub_alone(facts: Facts) -> str:
    """KerasHub without what it imports."""
    missing = [name for name in ("regex", "tokenizers") if name not in facts.packages]
    if "keras-hub" in facts.packages and missing:
        return f"keras-hub {facts.packages['keras-hub']} is there without {' and '.join(missing)}"
    return ""


def wrong_libtpu(facts: Facts) -> str:
    """A libtpu with which TensorFlow does not start."""
    from tfdist.tpu import doctor

    if "tensorflow-tpu" not in facts.packages:
        return ""
    python = numbers(facts.python[0])[:2]
    seen = doctor.Facts(python=(python[0], python[1]), packages=facts.packages)
    return doctor.problem_of_packages(seen) or ""


def outside(versions: Versions) -> Callable[[Facts], str]:
    """A version that is not among those that tfdist is tested with."""

    def finds(facts: Facts) -> str:
        found = version_of(facts, versions.package)
        return f"{versions.package} {found} is not {versions}" \
            if found and facts not in versions else ""

    return finds


def _has_onednn(facts: Facts) -> bool:
    """Tells whether TensorFlow uses oneDNN: as it is told, and by itself on newer processors."""
    asked = facts.environ.get("TF_ENABLE_ONEDNN_OPTS", "")
    return asked in YES if asked else "avx512_vnni" in facts.cpu_flags


def onednn_on(facts: Facts) -> str:
    """oneDNN, in use."""
    return "oneDNN is on" if _has_onednn(facts) else ""


def onednn_off(facts: Facts) -> str:
    """oneDNN, not in use where it would help."""
    asked = "TF_ENABLE_ONEDNN_OPTS" in facts.environ
    flags = facts.cpu_flags
    is_off = "avx2" in flags and "avx512_vnni" not in flags and not asked
    return "oneDNN is off, as TensorFlow leaves it on this processor (AVX2)" if is_off else ""


def other_backend(facts: Facts) -> str:
    """Another backend of Keras, by its variable."""
    backend = facts.environ.get("KERAS_BACKEND", "tensorflow")
    return f"KERAS_BACKEND={backend!r}" if backend != "tensorflow" else ""


def backend_of_file(facts: Facts) -> str:
    """Another backend of Keras, by its file."""
    is_other = facts.keras_json not in ("", "tensorflow")
    asked = "KERAS_BACKEND" in facts.environ
    return f"keras.json names the backend {facts.keras_json!r}" if is_other and not asked else ""


def variable(name: str, values: Sequence[str]) -> Callable[[Facts], str]:
    """A variable with one of these values."""

    def finds(facts: Facts) -> str:
        value = facts.environ.get(name, "")
        return f"{name}={value}" if value in values else ""

    return finds


def no_token(facts: Facts) -> str:
    """A cluster of Ray that asks for a token, and none to give."""
    if facts.environ.get("RAY_AUTH_MODE") != "token" or facts.has_ray_token:
        return ""
    return "" if {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(facts.environ) else (
        "RAY_AUTH_MODE=token, and there is no token in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or "
        "~/.ray/auth_token"
    )


def proxy(facts: Facts) -> str:
    """A proxy that gRPC would ask for this very host."""
    names = ("grpc_proxy", "https_proxy", "http_proxy")
    spared = facts.environ.get("no_grpc_proxy", facts.environ.get("no_proxy", ""))
    found = [name for name in names if facts.environ.get(name)]
    if not found or "127.0.0.1" in spared or spared.strip() == "*":
        return ""
    return f"{found[0]} is set, and no_proxy={spared!r} does not spare 127.0.0.1"


def few(name: str, least: int) -> Callable[[Facts], str]:
    """A limit that is too low."""

    def finds(facts: Facts) -> str:
        most = facts.limits.get(name, -1)
        return f"ulimit: {most} {name} at most, fewer than {least}" if 0 <= most < least else ""

    return finds


def small_shm(facts: Facts) -> str:
    """Too little shared memory, where something needs it."""
    size, needs = facts.shm_bytes, "ray" in facts.packages or facts.nvidia_files > 0
    is_small = size is not None and size <= 64 * _MIB
    return f"/dev/shm has {(size or 0) // _MIB} MiB" if is_small and needs else ""


def full_disk(facts: Facts) -> str:
    """Little room for temporary files."""
    folder, free = facts.disk
    return f"{free // _MB} MB are free in {folder}" if folder and free < _GB else ""


def little_memory(facts: Facts) -> str:
    """Little memory."""
    whole, available = facts.memory_bytes
    return f"{available // _MB} MB of memory are available" if whole and available < _GB else ""


def quota(facts: Facts) -> str:
    """A container that may use fewer cores than it sees."""
    allowed, busy = facts.cores
    is_less = busy <= 0.75 * allowed
    return f"{allowed} cores are there, and the container may keep {busy:g} busy" if is_less else ""


def gpu_for_nobody(facts: Facts) -> str:
    """A GPU that TensorFlow cannot use."""
    has = facts.packages
    if not facts.nvidia_files or not tensorflows(facts):
        return ""
    if "tensorflow" not in has:
        return f"{facts.nvidia_files} NVIDIA GPU(s), and {tensorflows(facts)[0]}"
    is_alone = not any(name.startswith("nvidia-cudnn") for name in has)
    return f"{facts.nvidia_files} NVIDIA GPU(s), and tensorflow without cuDNN of its own" \
        if is_alone else ""


def no_avx(facts: Facts) -> str:
    """A processor that TensorFlow's wheels do not run on."""
    return "the processor has no AVX" if facts.cpu_flags and "avx" not in facts.cpu_flags else ""


def late_clock(facts: Facts) -> str:
    """A clock that is late."""
    secs = facts.clock[1]
    return f"the clock says {facts.clock[0]}, {secs / 3600:.0f} hours before tfdist was installed" \
        if secs > 3600 else ""
