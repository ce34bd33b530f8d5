"""Which versions and places are these?  To paste into a report.

    tfdist env
    tfdist env --json > report.json     then, anywhere: tfdist doctor --from=report.json

Of variables whose name tells of a secret, and of logins in the addresses of proxies, nothing is
shown. TensorFlow is not started. Exit code 0.
"""

from __future__ import annotations

from collections.abc import Sequence

from absl import flags

from tfdist.cli.health import facts as facts_lib
from tfdist.cli.health.facts import Facts
from tfdist.launch.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.
    """
    line = CommandLine("tfdist env", "[--json]", text=__doc__)
    flags.DEFINE_boolean("json", False, "Whether to write JSON.", flag_values=line.flags)
    line.parse_flags_alone(argv)
    found = facts_lib.collect()
    print(facts_lib.to_json(found) if line.flags.json else "\n".join(describe(found)))
    return 0


def describe(facts: Facts) -> list[str]:
    """Says what is known of a host, in lines."""
    whole, available = facts.memory_bytes
    allowed, busy = facts.cores
    shm = "none" if facts.shm_bytes is None else _gb(facts.shm_bytes)
    limits = ", ".join(
        f"{name} {'unlimited' if most < 0 else most}" for name, most in facts.limits.items()
    )
    rows = {
        "tfdist": " in ".join(facts.tfdist),
        "Python": " at ".join(facts.python),
        "system": f"{facts.system}; {facts.machine} {' '.join(facts.cpu_flags)}".strip(),
        "cores": f"{allowed}" + (f", of which {busy:g} at once" if busy < allowed else ""),
        "memory": f"{_gb(whole)}, {_gb(available)} available; /dev/shm {shm}",
        "disk": f"{_gb(facts.disk[1])} free in {facts.disk[0]}",
        "limits": limits or "none",
        "GPUs": f"{facts.nvidia_files} device file(s) of NVIDIA",
        "clock": facts.clock[0],
        "Keras file": facts.keras_json or "names no backend",
    }
    packages = [f"  {name} {version}" for name, version in facts.packages.items()]
    variables = [f"  {name}={value}" for name, value in facts.environ.items()]
    return [
        *(f"{name}: {text}" for name, text in rows.items()),
        "packages:", *(packages or ["  none that matter"]),
        "variables:", *(variables or ["  none that matter"]),
    ]  # fmt: skip


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f} GB"
