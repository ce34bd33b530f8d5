"""Which place in a job does an environment give, and why?  What matched, and what was ignored."""

from __future__ import annotations

import json
import shlex
import socket
from collections.abc import Mapping

from tfdist.cluster.detection import Cluster, detect_cluster
from tfdist.cluster.meeting import find_address
from tfdist.cluster.tf_config import TRAINING_TYPES

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


def look_at_links(environ: Mapping[str, str]) -> tuple[list[str], bool]:
    """Tries the names of the workers of a cluster, and this worker's own port.

    The ports of the others are not tried: nobody listens there before the job runs.

    Returns:
        Lines for a person, and whether nothing is in the way.
    """
    try:
        cluster = detect_cluster(environ)
    except ValueError:
        return [], True  # `diagnose` says what is wrong
    if cluster is None or not cluster.addresses:
        return [], True
    lines, is_fine = [], True
    for rank, address in enumerate(cluster.addresses):
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        try:
            found = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
        except OSError as error:
            lines.append(f"worker {rank}: ERROR: the name {host!r} is not known here ({error}); "
                         "put it into the DNS or /etc/hosts, or give the worker's address.")
            is_fine = False
            continue
        line = f"worker {rank}: {address} is {found[0][4][0]}"
        if rank == cluster.rank:
            problem = _try_port(found)
            line += f"; this one. ERROR: {problem}" if problem else "; this one, its port is free"
            is_fine &= not problem
        lines.append(line)
    return lines, is_fine


def _try_port(found: list[tuple]) -> str:
    family, _, _, _, address = found[0]
    try:
        with socket.socket(family, socket.SOCK_STREAM) as end:
            end.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            end.bind(address)
    except OSError as error:
        return f"its port cannot be taken ({error}); end what has it, or name another port."
    return ""
