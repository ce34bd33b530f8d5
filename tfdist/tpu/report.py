"""What is the result of a preflight? The facts, and a readable summary."""

from __future__ import annotations

import dataclasses

_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Collective:
    """One exchange between the replicas in each step."""

    kind: str  # "all-reduce", ...
    bytes: int  # of one replica
    tensors: int


@dataclasses.dataclass(frozen=True)
class Report:
    """Whether a training step compiles for a TPU, and whether it fits.

    A memory figure is that of one chip; of one core on v2, v3 and v4, where a chip is two replicas.

    Attributes:
        topology: The TPU that was compiled for.
        device_kind: The vendor's name for it.
        num_replicas: Replicas that run the program: the chips of the topology, or its cores.
        global_batch_size: Examples of a step, over all replicas.
        per_replica_batch_size: Examples of a step on each replica.
        steps_per_execution: Steps in one execution.
        fast: Whether it was compiled with the least effort. A program that fits then fits; one that
            does not may yet fit when it is compiled in full.
        compiles: Whether the compiler takes every operation of the step.
        fits: Whether the memory of each chip holds it.
        error: The first error, in a sentence; None where it compiles and fits.
        where: The layer or metric behind the error, where the compiler tells.
        hbm_bytes_needed: Memory of a chip that it takes; None where the compiler does not tell.
        hbm_bytes_available: Memory of a chip that programs may use.
        parameter_bytes: Of these, the model's variables, metrics included, by their shapes.
        optimizer_bytes: The optimizer's variables, by their shapes.
        batch_bytes: The rows of a replica, of all steps of one execution.
        activation_bytes: What lives within the step: activations, gradients and other temporaries.
        program_bytes: The program itself, and what padding to the memory's tiles adds to the rest.
        flops_per_step: Floating-point operations of a step, over all replicas, as the compiler
            counts them after its optimizations.
        collectives: What the replicas exchange in each step.
        compile_secs: Time of the compiler.
        largest_batch_size: The largest global batch that fits, where it was searched for.
    """

    topology: str
    device_kind: str
    num_replicas: int
    global_batch_size: int
    per_replica_batch_size: int
    steps_per_execution: int
    fast: bool
    compiles: bool
    fits: bool
    error: str | None
    where: str | None
    hbm_bytes_needed: int | None
    hbm_bytes_available: int
    parameter_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    activation_bytes: int | None = None
    program_bytes: int | None = None
    flops_per_step: int | None = None
    collectives: tuple[Collective, ...] = ()
    compile_secs: float | None = None
    largest_batch_size: int | None = None

    def __str__(self) -> str:
        return "\n".join(_lines(self))


def _lines(report: Report) -> list[str]:
    mode = "fast, for compiling alone" if report.fast else "in full"
    lines = [
        f"{report.topology} ({report.device_kind}), {report.num_replicas} replica(s),"
        f" compiled {mode}",
        f"  batch: {report.global_batch_size} globally, {report.per_replica_batch_size} a replica,"
        f" steps_per_execution={report.steps_per_execution}",
        f"  compiles: {_yes(report.compiles)}"
        + (f" ({report.compile_secs:.1f} s)" if report.compile_secs is not None else ""),
        f"  fits: {_yes(report.fits) if report.compiles else 'unknown'}",
    ]
    if report.error:
        lines.append(f"  error: {report.error}")
    if report.where:
        lines.append(f"  where: {report.where}")
    lines.append(
        f"  memory of a chip: {_size(report.hbm_bytes_needed)} needed,"
        f" {_size(report.hbm_bytes_available)} available"
    )
    parts = ("parameter", "optimizer", "batch", "activation", "program")
    sizes = [(part, getattr(report, f"{part}_bytes")) for part in parts]
    lines += [f"    {part}: {_size(size)}" for part, size in sizes if size is not None]
    if report.flops_per_step is not None:
        lines.append(f"  operations of a step, all replicas: {report.flops_per_step:.3g} FLOP")
    for each in report.collectives:
        tensors = f"{each.tensors} tensor{'s' * (each.tensors > 1)}"
        lines.append(f"  {each.kind}: {_size(each.bytes)} in {tensors}")
    if report.largest_batch_size is not None:
        lines.append(f"  largest global batch that fits: {report.largest_batch_size}")
    return lines


def _yes(value: bool) -> str:
    return "yes" if value else "NO"


def _size(count: int | None) -> str:
    if count is None:
        return "unknown"
    for unit, size in (("GiB", _GIB), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= size:
            return f"{count / size:.2f} {unit}"
    return f"{count} bytes"
