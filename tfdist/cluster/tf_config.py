"""What does TF_CONFIG say?  Its JSON text, checked -> the cluster's tasks, and which one this is.

Synopsis:

    >>> text = '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1}}'
    >>> parse_tf_config(text)
    TfConfig(jobs=(('worker', ('a:1', 'b:1')),), task_type='worker', task_index=1)
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from tfdist.cluster.wording import shorten

# In the order in which ranks are given: the chief first, then the workers.
TRAINING_TYPES = ("chief", "worker")
TASK_TYPES = (*TRAINING_TYPES, "ps", "evaluator")
OLD_NAMES = MappingProxyType({"master": "chief"})

Jobs = tuple[tuple[str, tuple[str, ...]], ...]


@dataclasses.dataclass(frozen=True)
class TfConfig:
    """A TF_CONFIG that has been checked."""

    jobs: Jobs  # (task type, addresses "host:port" by index), in TF_CONFIG's own order
    task_type: str  # "chief", "worker", "ps" or "evaluator"
    task_index: int  # within its task type


@dataclasses.dataclass(frozen=True)
class _Source:
    """Where a text comes from, for error messages."""

    variable: str
    text: str
    new_names: Mapping[str, str]

    def fail(self, cause: str, cure: str) -> NoReturn:
        received = f"Received: {self.variable}={shorten(self.text)}"
        raise ValueError(f"{self.variable} {cause}; {cure}. {received}") from None


def parse_tf_config(
    text: str, *, variable: str = "TF_CONFIG", new_names: Mapping[str, str] = OLD_NAMES
) -> TfConfig | None:
    """Reads the value of TF_CONFIG, or of a variable of the same form.

    Args:
        text: JSON as TensorFlow documents it; the form with a dict of indices under a task type is
            read as the list that it stands for.
        variable: The variable's name, for error messages.
        new_names: TensorFlow's names for task types that have others in this text.

    Returns:
        The tasks and this process's own, or None where TF_CONFIG names no cluster ("", "{}").

    Raises:
        ValueError: The text is no valid TF_CONFIG; the message says what is wrong and the cure.
    """
    if not text.strip():
        return None
    source = _Source(variable, text, new_names)
    config = _load(source)
    if not isinstance(config, dict):
        source.fail(f"is a JSON {_kind(config)}", "write an object with 'cluster' and 'task'")
    jobs = _read_jobs(source, config)
    task = config.get("task")
    if not jobs:
        _check_lonely_task(source, task)
        return None
    task_type, task_index = _read_task(source, task)
    _check_task(source, dict(jobs), task_type, task_index)
    return TfConfig(jobs, task_type, task_index)


def check_address(address: object) -> str:
    """Says what is wrong with an address that should be "host:port"; "" if nothing is."""
    if not isinstance(address, str):
        return f"{shorten(address)} is a {_kind(address)}, not a text 'host:port'"
    host, colon, port = address.rpartition(":")
    if not colon or not host:
        return f"{shorten(address)} has no port or no host, where 'host:port' is needed"
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 65536):
        return f"{shorten(address)} has the port {shorten(port)}, where 1 to 65535 is possible"
    if "/" in host or any(c.isspace() or c == "," for c in host):
        return f"{shorten(address)} is not of the form 'host:port' (no scheme, no spaces)"
    if not host.isprintable() or not _is_name(host):
        return f"{shorten(address)} has a host that is no name: a part between dots is 1 to 63 long"
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        return f"{shorten(address)} is an IPv6 address without brackets; write '[host]:port'"
    return ""


def _is_name(host: str) -> bool:
    """Tells whether the system can look it up, as it does not for an empty or overlong part."""
    try:
        return host.startswith("[") or len(host.encode("idna")) < 256
    except UnicodeError:
        return False


# ---------------------------------------------------------------------------- the parts of the text


def _load(source: _Source) -> Any:
    """Parses JSON, and refuses repeated keys, NaN and Infinity, which `json` accepts."""

    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise ValueError(f"the key {shorten(key)} is there twice")
            found[key] = value
        return found

    def no_constants(name: str) -> NoReturn:
        raise ValueError(f"{name} is no JSON number")

    try:
        return json.loads(source.text, object_pairs_hook=no_repeats, parse_constant=no_constants)
    except RecursionError:
        source.fail("is nested too deeply", "write an object with 'cluster' and 'task'")
    except ValueError as error:
        source.fail(f"is no valid JSON ({error})", "check quotes, commas and brackets")


def _read_jobs(source: _Source, config: dict[str, Any]) -> Jobs:
    if "sparseCluster" in config:
        # The dynamic TFJob: each worker only knows itself and the parameter servers.
        source.fail(
            "has a 'sparseCluster', which does not name the other workers",
            "turn off enableDynamicWorker in the TFJob",
        )
    cluster = config.get("cluster", {})
    if not isinstance(cluster, dict):
        source.fail(f"has a {_kind(cluster)} as 'cluster'", "write an object of task types")
    jobs: dict[str, tuple[str, ...]] = {}
    for name, tasks in cluster.items():
        task_type = source.new_names.get(name, name)
        if task_type not in TASK_TYPES:
            source.fail(f"has the unknown task type {shorten(name)}", f"use one of {TASK_TYPES}")
        if task_type in jobs:
            source.fail(f"names {task_type!r} twice, once as {name!r}", "leave one of the two out")
        jobs[task_type] = _read_addresses(source, task_type, tasks)
    _check_jobs(source, jobs)
    return tuple((task_type, addresses) for task_type, addresses in jobs.items() if addresses)


def _read_addresses(source: _Source, task_type: str, tasks: object) -> tuple[str, ...]:
    if isinstance(tasks, dict):
        tasks = _list_of_dict(source, task_type, tasks)
    if not isinstance(tasks, list):
        source.fail(
            f"has a {_kind(tasks)} under {task_type!r}",
            "write a list of addresses 'host:port'",
        )
    for address in tasks:
        if wrong := check_address(address):
            source.fail(f"lists an address under {task_type!r} where {wrong}", "correct it")
    return tuple(tasks)


def _list_of_dict(source: _Source, task_type: str, tasks: dict[str, object]) -> list[object]:
    """Reads the dynamic form, {"0": "a:1", "1": "b:1"}, in which no index may be missing."""
    wanted = [str(index) for index in range(len(tasks))]
    if sorted(tasks) != sorted(wanted):
        source.fail(
            f"gives {task_type!r} by index and only {shorten(sorted(tasks))}, so that the number"
            " of workers is not known",
            "list all of them (in a TFJob: turn off enableDynamicWorker)",
        )
    return [tasks[index] for index in wanted]


def _read_task(source: _Source, task: object) -> tuple[str, int]:
    if not isinstance(task, dict):
        found = "no 'task'" if task is None else f"a {_kind(task)} as 'task'"
        source.fail(
            f"has a cluster but {found}, so this process does not know which worker it is",
            "write 'task': {'type': 'worker', 'index': 0} with this worker's own index",
        )
    task_type = task.get("type")
    if isinstance(task_type, str):
        task_type = source.new_names.get(task_type, task_type)
    if task_type not in TASK_TYPES:
        source.fail(f"has the task type {shorten(task_type)}", f"use one of {TASK_TYPES}")
    index = task.get("index")
    if isinstance(index, str) and index.isascii() and index.isdigit() and len(index) < 10:
        index = int(index)  # some job templates can only fill in text
    if not isinstance(index, int) or isinstance(index, bool) or index < 0:
        source.fail(f"has the task index {shorten(index)}", "use a whole number from 0")
    return task_type, index


# ---------------------------------------------------------------------- what the parts say together


def _check_jobs(source: _Source, jobs: dict[str, tuple[str, ...]]) -> None:
    if len(jobs.get("chief", ())) > 1:
        source.fail(f"has {len(jobs['chief'])} chiefs", "name one, and the others as 'worker'")
    seen: dict[str, str] = {}
    for task_type, addresses in jobs.items():
        for index, address in enumerate(addresses):
            task = f"{task_type} {index}"
            if address in seen:
                source.fail(
                    f"gives the address {address!r} to both {seen[address]} and {task}",
                    "give each task a host and port of its own",
                )
            seen[address] = task


def _check_task(
    source: _Source, jobs: dict[str, tuple[str, ...]], task_type: str, index: int
) -> None:
    if task_type == "evaluator" and "evaluator" not in jobs:
        return  # TensorFlow's own form: the cluster names only those who train
    if task_type not in jobs:
        source.fail(
            f"says that this task is a {task_type!r}, but the cluster has {sorted(jobs)} only",
            f"add {task_type!r} to the cluster, or correct the type",
        )
    count = len(jobs[task_type])
    if index >= count:
        source.fail(
            f"says that this task is {task_type} {index}, but the cluster has {count} of that type",
            f"use an index from 0 to {count - 1}, or list all addresses",
        )


def _check_lonely_task(source: _Source, task: object) -> None:
    """Refuses a task without a cluster whose index shows that there are other workers."""
    index = task.get("index", 0) if isinstance(task, dict) else 0
    if index not in (0, "0"):
        source.fail(
            f"has the task index {shorten(index)}, but no cluster",
            "add 'cluster': {'worker': ['host:port', ...]} with all workers",
        )


def _kind(value: object) -> str:
    names = {dict: "object", list: "list", str: "text", bool: "true/false", type(None): "null"}
    return names.get(type(value), "number")
