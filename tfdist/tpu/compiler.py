"""Compiles a program for a TPU that is not there. Runs in a process and environment of its own.

    python -I compiler.py REQUEST.json ANSWER.json

Nothing of tfdist or TensorFlow is imported here, and what is imported of jax are private names of
the one release that compiler_environment.py pins. A request holds `topology`, and with it nothing
more (the answer says what such a TPU is) or `program`, `num_replicas` and `fast`.
"""

from __future__ import annotations

import json
import os
import pathlib
import re
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

_ENVIRON = {
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",  # any type: each compilation names its own topology
    "TPU_SKIP_MDS_QUERY": "1",  # off a TPU VM the question is never answered
    "TPU_WORKER_HOSTNAMES": "localhost",
}
_COLLECTIVES = "all-reduce|all-gather|reduce-scatter|all-to-all|collective-permute"
_BITS = {"pred": 8, "token": 0}
_TIB = 2**40


def describe(topology: str) -> dict[str, Any]:
    """Describes a topology, and how much of its memory programs may use."""
    import jax
    import jax.numpy as jnp

    try:
        devices = _devices(topology)
    except Exception as error:  # there is no class for it
        if "INVALID_ARGUMENT" in str(error):
            return {"error": str(error)}
        raise
    # Only the refusal of a program that is too large for any TPU tells the size of the memory.
    rows = jax.ShapeDtypeStruct((_TIB // 512, 128), jnp.float32)
    module = jax.jit(lambda x: x * 2 + x.sum()).lower(rows).compiler_ir("stablehlo")
    try:
        with module.context:
            _compiled(module, devices, num_replicas=1, fast=True)
    except Exception as error:  # of a class that differs between releases
        available = _bytes_after(r"available HBM \(", str(error)) or _bytes_after(
            r" of (?=[\d.]+\w? hbm)", str(error)
        )
        if available is None:
            raise
    return {
        "error": None,
        "device_kind": devices[0].device_kind,
        "num_devices": len(devices),
        "hbm_bytes_available": available,
    }


def compile_program(
    topology: str, *, program: str, num_replicas: int, fast: bool
) -> dict[str, Any]:
    """Compiles a serialized StableHLO program and describes the result."""
    module = _parsed(pathlib.Path(program).read_bytes())
    start = time.monotonic()
    try:
        with module.context:
            compiled = _compiled(
                module, _devices(topology), num_replicas=num_replicas, fast=fast
            )
    except Exception as error:  # the answer, whatever it is
        text = str(error)
        is_memory = "RESOURCE_EXHAUSTED" in text and "hbm" in text.lower()
        return {
            "error": text.partition("Suspected Python Code Location")[0],
            "named": _named_in(module, text),
            "is_out_of_memory": is_memory,
            "hbm_bytes_needed": _needed(text) if is_memory else None,
        }
    secs = time.monotonic() - start
    cost = compiled.cost_analysis()
    cost = cost[0] if isinstance(cost, list) else cost
    text = "\n".join(part.to_string() for part in compiled.hlo_modules())
    return {
        "error": None,
        "compile_secs": secs,
        "memory": _memory(compiled.get_compiled_memory_stats()),
        "flops": cost.get("flops"),
        "collectives": list(_collectives(text)),
    }


def _memory(stats: Any) -> dict[str, int]:
    names = ("argument", "output", "alias", "temp", "generated_code")
    return {name: getattr(stats, f"{name}_size_in_bytes") for name in names}


def _devices(topology: str) -> Any:
    from jax.experimental import topologies

    shape = topology.partition(":")[2]
    # A single chip has its own host; else the chips per host follow from the kind of TPU.
    options = {"chips_per_host_bounds": (1, 1, 1)} if re.fullmatch(r"1(x1)*", shape) else {}
    return topologies.get_topology_desc(topology, "tpu", **options).devices


def _compiled(module: Any, devices: Any, *, num_replicas: int, fast: bool) -> Any:
    import numpy as np
    from jax._src import compiler
    from jaxlib import xla_client

    used = tuple(devices[:num_replicas])
    options = compiler.get_compile_options(
        num_replicas, 1, device_assignment=np.array([[device.id] for device in used])
    )
    if fast:
        options.executable_build_options.exec_time_optimization_effort = -1.0
    return used[0].client.compile(
        module, executable_devices=xla_client.DeviceList(used), compile_options=options
    )


def _parsed(program: bytes) -> Any:
    """Parses a module and adapts what TensorFlow and jax understand differently."""
    from jax._src.interpreters import mlir
    from jaxlib.mlir import ir

    copies = []

    def visit(operation: Any) -> Any:
        operation = operation.operation
        if operation.name == "mhlo.copy":  # the identity
            copies.append(operation)
        elif operation.name == "stablehlo.compare" and "compare_type" in operation.attributes:
            element = str(ir.ShapedType(operation.operands[0].type).element_type)
            if "TOTALORDER" in str(operation.attributes["compare_type"]) and element[0] in "iu":
                del operation.attributes["compare_type"]  # which integers do not know
        return ir.WalkResult.ADVANCE

    with mlir.make_ir_context():
        module = ir.Module.parse(program)
        module.operation.walk(visit)
        for copy in copies:
            copy.results[0].replace_all_uses_with(copy.operands[0])
            copy.erase()
    return module


def _named_in(module: Any, text: str) -> str:
    """Returns the locations of operations whose kind a message names, as `loc("...")`."""
    from jaxlib.mlir import ir

    found = []

    def visit(operation: Any) -> Any:
        operation = operation.operation
        dialect, _, kind = operation.name.rpartition(".")
        is_telling = dialect == "stablehlo" and kind not in ("constant", "return")
        if is_telling and re.search(rf"\b{kind.replace('_', '.')}\b", text, re.IGNORECASE):
            found.extend(re.findall(r'"([^"]+)"', str(operation.location)))
        return ir.WalkResult.ADVANCE

    with module.context:
        module.operation.walk(visit)
    return " ".join(f'loc("{name}")' for name in found)


def _collectives(hlo: str) -> Iterator[dict[str, Any]]:
    """Yields the collectives of a compiled program: kind, bytes of one replica, tensors."""
    pattern = rf"^\s*(?:ROOT )?%?\S+ = (.*?) ({_COLLECTIVES})(-start)?\((.*?)\)"
    for shape, kind, start, operands in re.findall(pattern, hlo, re.MULTILINE):
        sizes = [_bytes_of(*part) for part in re.findall(r"(\w+)\[([\d,]*)\]", shape)]
        count = max(len(re.findall(r"%[\w.-]+", operands)), 1)
        # An asynchronous collective lists its operands before its results.
        sizes = sizes[-count:] if start and kind != "all-reduce" else sizes
        yield {"kind": kind, "bytes": sum(sizes), "tensors": count}


def _bytes_of(dtype: str, dims: str) -> int:
    bits = _BITS.get(dtype) if dtype in _BITS else int("".join(re.findall(r"\d+", dtype)[:1]) or 0)
    elements = 1
    for dim in filter(None, dims.split(",")):
        elements *= int(dim)
    return elements * (bits or 0) // 8


def _needed(text: str) -> int | None:
    """Reads from a refusal how much memory the program would have needed."""
    used = _bytes_after(r"Used ", text)
    if used is not None:
        return used
    return _bytes_after(r"total memory required for [^(]*\(", text)


def _bytes_after(prefix: str, text: str) -> int | None:
    found = re.search(rf"{prefix}([\d.]+)([KMGT]?)", text)
    if not found:
        return None
    return int(float(found[1]) * 1024 ** " KMGT".index(found[2] or " "))


def answer(request: Mapping[str, Any]) -> dict[str, Any]:
    """Returns what is written to ANSWER.json."""
    return compile_program(**request) if "program" in request else describe(**request)


if __name__ == "__main__":
    os.environ.update(_ENVIRON)
    request_path, answer_path = map(pathlib.Path, sys.argv[1:])
    answer_path.write_text(json.dumps(answer(json.loads(request_path.read_text()))))
