"""Says which rank in a job the environment gives, and why: what matched, what was ignored.

    python scripts/doctor.py                      this process's own environment
    python scripts/doctor.py --environ=dump.txt   one that was written down where the trouble is
    python scripts/doctor.py --tpu                which TPU is here, and which packages it needs

A dump is what `env`, `env -0`, `export -p` or `declare -x` prints there, or a JSON object. The exit
code is 1 where the environment is an error. TensorFlow is not needed, and not imported.
"""

from __future__ import annotations

import json
import os
import pathlib
import shlex
import sys
from collections.abc import Mapping

from absl import app, flags

from tfdist.cluster.detection import Cluster, detect_cluster
from tfdist.cluster.meeting import find_address
from tfdist.cluster.tf_config import TRAINING_TYPES
from tfdist.tpu import doctor

_ENVIRON = flags.DEFINE_string(
    "environ", None, "File with a dump of variables; this process's environment by default."
)
_TPU = flags.DEFINE_bool("tpu", False, "Look for a TPU and what can use it, and nothing else.")
_PREFIXES = ("export ", "declare -x ", "typeset -x ")


def read_dump(text: str) -> dict[str, str]:
    """Reads variables from what a shell or a program has printed.

    Args:
        text: A JSON object, or NAME=VALUE in lines or with zero bytes between; a line without a
            name goes on with the value before it.

    Raises:
        ValueError: It is neither.
    """
    if text.lstrip().startswith("{"):
        found = json.loads(text)
        return {str(name): str(value) for name, value in found.items()}
    environ: dict[str, str] = {}
    last = ""
    for line in text.split("\0" if "\0" in text else "\n"):
        prefix = next((prefix for prefix in _PREFIXES if line.startswith(prefix)), "")
        name, equals, value = line[len(prefix) :].partition("=")
        if equals and name.isidentifier():
            environ[name] = _unquote(value) if prefix else value
            last = name
        elif last and line.strip() and not prefix:
            environ[last] += "\n" + line
        elif line.strip() and not prefix:
            raise ValueError(
                f"The dump begins with {line[:60]!r}, where NAME=VALUE is needed; make it with"
                " `env > dump.txt`."
            )
    return environ


def _unquote(value: str) -> str:
    try:
        return "".join(shlex.split(value))
    except ValueError:  # a value of several lines, whose quotes end elsewhere
        return value


def diagnose(environ: Mapping[str, str]) -> tuple[list[str], bool]:
    """Explains an environment.

    Returns:
        Lines for a person, and whether it is fine.
    """
    try:
        cluster, lines = detect_cluster(environ, explain=True)
    except ValueError as error:
        return [f"ERROR: {error}"], False
    if cluster is None:
        return [*lines, "", "No cluster: this process would train alone."], True
    found = [
        *lines,
        "",
        f"This process: {cluster.task_type} {cluster.task_index}, rank {cluster.rank} of"
        f" {cluster.size}, {cluster.local_rank} of {cluster.local_size} on its host, by"
        f" {cluster.source}.",
    ]
    if cluster.addresses or cluster.size == 1:
        return [*found, f"TF_CONFIG: {json.dumps(cluster.to_tf_config())}"], True
    return _explain_meeting(cluster, environ, found)


def _explain_meeting(
    cluster: Cluster, environ: Mapping[str, str], found: list[str]
) -> tuple[list[str], bool]:
    if cluster.task_type not in TRAINING_TYPES:
        return found, True
    try:
        host, ports = find_address(cluster, environ)
    except (ValueError, RuntimeError) as error:
        return [*found, f"ERROR: {error}"], False
    addresses = f"{host}:{ports[0]}" + (f" to {ports[-1]}" if len(ports) > 1 else "")
    shown = [f"<address of worker {rank}>" for rank in range(cluster.size)]
    config = {
        "cluster": {"worker": shown},
        "task": {"type": cluster.task_type, "index": cluster.task_index},
    }
    return [
        *found,
        f"The addresses are not told: the workers will meet at {addresses}, where worker 0 "
        "listens.",
        f"TF_CONFIG then: {json.dumps(config)}",
    ], True


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments {argv[1:]}; flags are given as --name=value.")
    if _TPU.value:
        print("\n".join(doctor.main_lines()))
        return
    environ: Mapping[str, str] = os.environ
    if _ENVIRON.value is not None:
        try:
            environ = read_dump(pathlib.Path(_ENVIRON.value).read_text())
        except (OSError, ValueError) as error:
            raise app.UsageError(f"--environ={_ENVIRON.value!r} cannot be read: {error}") from None
    lines, is_fine = diagnose(environ)
    print("\n".join(lines))
    sys.exit(0 if is_fine else 1)


if __name__ == "__main__":
    app.run(main)
