"""How is the compiler called? In a separate process, with its request and answer in files.

`describe_topology` costs two seconds and compiles nothing; `compile_for` takes from a second to
minutes.
"""

from __future__ import annotations

import functools
import json
import os
import pathlib
import subprocess
import tempfile
from collections.abc import Mapping
from typing import Any

from tfdist.tpu import compiler
from tfdist.tpu.compiler_environment import run_tool

_DESCRIBE_SECS = 180.0


@functools.lru_cache(maxsize=16)
def describe_topology(python: pathlib.Path, topology: str) -> Mapping[str, Any]:
    """Returns `device_kind`, `num_devices` and `hbm_bytes_available` (of one device).

    Args:
        python: The compiler's; see compiler_environment.py.
        topology: A kind of TPU and the shape of a slice, as "v5e:2x4".

    Raises:
        ValueError: The compiler does not know the topology.
    """
    facts = ask(python, {"topology": topology}, timeout_secs=_DESCRIBE_SECS)
    if facts["error"]:
        raise ValueError(
            f"topology={topology!r} is not one that the compiler knows"
            f" ({facts['error'].rpartition('INVALID_ARGUMENT: ')[2]}). Use a kind and a shape of"
            " chips: 'v5e:1x1', 'v5e:2x2', 'v5e:2x4' (the same for v6e), 'v2:2x2', 'v3:2x2',"
            " 'v4:2x2x1', 'v5p:2x2x1' or 'tpu7x:2x2x1'."
        )
    return facts


def compile_for(
    python: pathlib.Path,
    program: bytes,
    *,
    topology: str,
    num_replicas: int,
    fast: bool,
    timeout_secs: float,
) -> dict[str, Any]:
    """Compiles a program; see compiler.py for what is returned.

    Args:
        python: The compiler's; see compiler_environment.py.
        program: Serialized StableHLO.
        topology: A kind of TPU and the shape of a slice.
        num_replicas: Replicas that run the program.
        fast: Whether to compile with the least effort.
        timeout_secs: Time for it.

    Raises:
        RuntimeError: The compiler's process failed, or its time was up.
    """
    with tempfile.TemporaryDirectory(prefix="tfdist-tpu-") as folder:
        path = pathlib.Path(folder, "program.mlir")
        path.write_bytes(program)
        request = {
            "topology": topology,
            "program": os.fspath(path),
            "num_replicas": num_replicas,
            "fast": fast,
        }
        return ask(python, request, timeout_secs=timeout_secs)


def ask(
    python: pathlib.Path, request: Mapping[str, Any], *, timeout_secs: float
) -> dict[str, Any]:
    """Runs the compiler's process on a request and returns its answer."""
    with tempfile.TemporaryDirectory(prefix="tfdist-tpu-") as folder:
        question, reply = pathlib.Path(folder, "request.json"), pathlib.Path(folder, "answer.json")
        question.write_text(json.dumps(dict(request)))
        command = [str(python), "-I", compiler.__file__, str(question), str(reply)]
        try:
            done = run_tool(command, timeout_secs=timeout_secs, cwd=folder)  # for its logs
        except subprocess.TimeoutExpired:
            raise RuntimeError(
                f"The compiler for TPUs was not done after timeout_secs={timeout_secs!r}. Give it"
                " more, or compile with fast=True."
            ) from None
        if done.returncode or not reply.exists():
            raise RuntimeError(
                f"The compiler for TPUs ended with exit code {done.returncode}:"
                f" {done.stdout.strip()[-1500:]}. Check its environment, {os.fspath(python)}:"
                " remove it to have it made anew."
            )
        answer: dict[str, Any] = json.loads(reply.read_text())
        return answer
