"""Does it compile for a TPU that is not there, and does it fit? preflight(model) -> Report.

Synopsis:

    tfdist preflight --target=my_module:my_model --topology=v5e:2x4

The training step of fit is traced and lowered in this process, and compiled in another one by the
compiler that real TPUs use. No time of a step is given: the compiler's estimates are no such thing.
"""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import keras

from tfdist.diagnostics.batch_search import largest
from tfdist.tpu import example
from tfdist.tpu.compiler_environment import compiler_python
from tfdist.tpu.compiler_process import compile_for, describe_topology
from tfdist.tpu.operations import first_of_kind, missing_kind
from tfdist.tpu.program import Program, make_program, refuse
from tfdist.tpu.report import Collective, Report
from tfdist.tpu.scopes import Origins

_SHOWN = 600  # characters of an error


def preflight(
    model: keras.Model,
    batch: Any = None,
    *,
    batch_size: int,
    topology: str = "v5e:2x4",
    steps_per_execution: int = 1,
    fast: bool = False,
    find_largest_batch: bool = False,
    venv: str | os.PathLike[str] | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    timeout_secs: float = 3600.0,
) -> Report:
    """Compiles the training step of a model for a TPU, without one.

    The first call makes a virtual environment with the compiler, of about 1.3 GB.

    Args:
        model: A compiled model, made outside of any strategy's scope.
        batch: A batch of any size, `(x, y)` or `(x, y, sample_weight)`, that tells shapes and
            dtypes; by default the model's inputs, outputs and losses do.
        batch_size: Examples per step, over all replicas; what every replica has equally many of is
            compiled, so it is rounded up to a multiple of their number.
        topology: A kind of TPU and the shape of a slice in chips: "v5e:1x1", "v5e:2x4", "v6e:2x2",
            "v4:2x2x1", ...
        steps_per_execution: Steps in one execution.
        fast: Whether to compile with the least effort: enough to see whether it compiles, and
            quicker by far, but it may need more memory than when it is compiled in full.
        find_largest_batch: Whether to search for the largest batch that fits, which takes about ten
            compilations.
        venv: Folder of an environment with the extra `tpu-preflight`, which is used as it is.
        cache_dir: Folder in which the environment is made; "~/.cache/tfdist" by default.
        timeout_secs: Time for one compilation.

    Returns:
        What the compiler says. Neither a step that does not compile nor one that does not fit is an
        exception.

    Raises:
        ValueError: The batch, the topology or the model cannot be.
        RuntimeError: The compiler's environment or process failed.
    """
    for name, value in (("batch_size", batch_size), ("steps_per_execution", steps_per_execution)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}={value!r} must be a positive integer; give one.")
    refuse(model)
    python = compiler_python(venv=venv, cache_dir=cache_dir)
    flight = _Flight(
        model=model,
        batch=batch,
        python=python,
        topology=topology,
        facts=describe_topology(python, topology),
        steps=steps_per_execution,
        fast=fast,
        timeout_secs=timeout_secs,
    )
    report = flight.report(batch_size)
    if not (find_largest_batch and report.compiles):
        return report

    def fits(size: int) -> bool:
        return (report if size == report.global_batch_size else flight.report(size)).fits

    best = largest(fits, start=report.global_batch_size, unit=flight.num_replicas)
    return dataclasses.replace(report, largest_batch_size=best or 0)


@dataclasses.dataclass(frozen=True)
class _Flight:
    """All of a preflight but the size of the batch."""

    model: keras.Model
    batch: Any
    python: pathlib.Path
    topology: str
    facts: Mapping[str, Any]  # of the topology
    steps: int
    fast: bool
    timeout_secs: float

    @property
    def num_replicas(self) -> int:
        return int(self.facts["num_devices"])

    def report(self, batch_size: int) -> Report:
        """Compiles for one batch size and reports the result."""
        rows = -(-batch_size // self.num_replicas)
        base = Report(
            topology=self.topology,
            device_kind=self.facts["device_kind"],
            num_replicas=self.num_replicas,
            global_batch_size=rows * self.num_replicas,
            per_replica_batch_size=rows,
            steps_per_execution=self.steps,
            fast=self.fast,
            compiles=False,
            fits=False,
            error=None,
            where=None,
            hbm_bytes_needed=None,
            hbm_bytes_available=self.facts["hbm_bytes_available"],
            parameter_bytes=0,
            optimizer_bytes=0,
            batch_bytes=0,
        )
        specs = example.specs(self.model, rows=rows, batch=self.batch)
        origins, program = Origins(), None
        try:
            program = make_program(
                self.model, specs, origins=origins, num_replicas=self.num_replicas, steps=self.steps
            )
            lowered = program.lower()
        except Exception as error:  # any error: the report says where
            return dataclasses.replace(base, **_failure(error, origins, program))
        answer = compile_for(
            self.python,
            lowered,
            topology=self.topology,
            num_replicas=self.num_replicas,
            fast=self.fast,
            timeout_secs=self.timeout_secs,
        )
        outcome = _outcome(answer, program, self.num_replicas)
        return dataclasses.replace(base, **_sizes(program), **outcome)


def _sizes(program: Program) -> dict[str, Any]:
    names = ("parameter_bytes", "optimizer_bytes", "batch_bytes")
    return {name: getattr(program, name) for name in names}


def _outcome(answer: Mapping[str, Any], program: Program, num_replicas: int) -> dict[str, Any]:
    """Returns what the compiler's answer says, as fields of a report."""
    if answer["error"]:
        is_memory = answer["is_out_of_memory"]
        return {
            "compiles": is_memory,
            "error": _shortened(answer["error"]),
            "where": program.origins.of_message(f"{answer['error']} {answer['named']}"),
            "hbm_bytes_needed": answer["hbm_bytes_needed"],
        }
    memory = answer["memory"]
    # Outputs that overwrite an argument take no memory of their own.
    held = memory["argument"] + memory["output"] - memory["alias"]
    counted = program.parameter_bytes + program.optimizer_bytes + program.batch_bytes
    return {
        "compiles": True,
        "fits": True,
        "hbm_bytes_needed": held + memory["temp"] + memory["generated_code"],
        "activation_bytes": memory["temp"],
        "program_bytes": memory["generated_code"] + max(held - counted, 0),
        "flops_per_step": _flops(answer, num_replicas),
        "collectives": tuple(Collective(**each) for each in answer["collectives"]),
        "compile_secs": answer["compile_secs"],
    }


def _flops(answer: Mapping[str, Any], num_replicas: int) -> int | None:
    # Steps of one execution are a loop, whose body is counted once.
    return None if answer["flops"] is None else int(answer["flops"]) * num_replicas


def _failure(
    error: Exception, origins: Origins, program: Program | None = None
) -> dict[str, Any]:
    """Returns what an error says, as fields of a report; `program` where it was traced."""
    text = str(error)
    where, kind = origins.of_message(text), missing_kind(text)
    if kind and program is not None:
        where = where or first_of_kind(program, kind)
    where = where or origins.of_exception(error)
    return {"error": _explained(f"{type(error).__name__}: {text}", where), "where": where}


def _explained(text: str, where: str | None) -> str:
    """Says in one sentence why a step cannot be lowered."""
    if missing := missing_kind(text):
        there = f", in {where}," if where else ""
        return (
            f"The operation {missing}{there} has no kernel for TPUs. Do its work in the tf.data"
            " pipeline, or by operations of keras.ops."
        )
    if "must be a compile-time constant" in text:
        return (
            f"{text.splitlines()[0]} A shape depends on the data, and a TPU wants every"
            " shape fixed: pad to a fixed size and mask."
        )
    return _shortened(text)


def _shortened(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]} ..."
