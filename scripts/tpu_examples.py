"""What would each example take on a TPU?  Memory, and what the update's collectives move, per step.

    python scripts/tpu_examples.py                                   all of examples/, v5e and v6e
    python scripts/tpu_examples.py --topologies=v6e:2x4 --examples=examples/lanes.py

Each example runs to its first `fit`, in a process of its own, and its step is compiled by the
compiler of real TPUs for its global batch (`tfdist preflight`). Nothing runs on a TPU. An example
that does not compile is told with the layer that is in the way.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from typing import Any

from absl import app, flags

_EXAMPLES = pathlib.Path(__file__).parents[1] / "examples"
_MARK = "report: "
_HEAD = "| example | TPU | batch | memory of a chip | variables, optimizer | sums of a step |"


def _one(path: str, topology: str) -> None:
    """Prints the report of one example as JSON."""
    from tfdist import tpu
    from tfdist.cli import first_fit

    found = first_fit.look_at_first_fit(path, [], _looked, device="cpu")
    size = found.batch_size or 64
    report = tpu.preflight(found.model, found.batch, batch_size=size, topology=topology)
    print(_MARK + json.dumps(dataclasses.asdict(report)))


def _looked(trainer: Any, given: dict[str, Any]) -> Any:
    from tfdist.cli import first_fit
    from tfdist.cli.looked_at import Looked

    batch, size = first_fit.sample_of(given)
    return Looked(trainer.model, batch, size)


def row_of(path: pathlib.Path, topology: str) -> str:
    """Returns the row of the table of one example on one kind of TPU."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", str(path), topology],
        capture_output=True, text=True, check=False, timeout=900,
    )
    told = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if not told:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        return f"| {path.stem} | {topology} | | did not run: {last[:120]} | | |"
    report = json.loads(told[0].removeprefix(_MARK))
    if not report["fits"]:
        where = f", in {report['where']}" if report["where"] else ""
        error = " ".join(str(report["error"]).split())[:120]
        return f"| {path.stem} | {topology} | | does not compile{where}: {error} | | |"
    needed, there = (report[f"hbm_bytes_{name}"] / 2**20 for name in ("needed", "available"))
    held = [report[f"{name}_bytes"] / 2**20 for name in ("parameter", "optimizer")]
    kinds = [_told(kind, report) for kind in sorted({e["kind"] for e in report["collectives"]})]
    return (
        f"| {path.stem} | {topology} | {report['global_batch_size']} | {needed:.1f} of "
        f"{there:,.0f} MiB | {held[0]:.2f}, {held[1]:.2f} MiB | {'; '.join(kinds) or 'none'} |"
    )


def _told(kind: str, report: dict[str, Any]) -> str:
    sizes = [each["bytes"] for each in report["collectives"] if each["kind"] == kind]
    tensors = sum(each["tensors"] for each in report["collectives"] if each["kind"] == kind)
    whole = f"{sum(sizes) / 2**10:,.1f} KiB of {tensors} tensors"
    return f"{len(sizes)} {kind}: {whole}, the largest {max(sizes) / 2**10:,.1f}"


def main(argv: list[str]) -> None:
    """Prints the table."""
    if _ONE.value:
        _one(argv[1], argv[2])
        return
    print(f"{_HEAD}\n|---|---|---|---|---|---|", flush=True)
    paths = [pathlib.Path(path) for path in _PATHS.value] or sorted(_EXAMPLES.glob("*.py"))
    for path in paths:
        for topology in _TOPOLOGIES.value:
            print(row_of(path, topology), flush=True)


_ONE = flags.DEFINE_boolean("one", False, "For the processes that this one starts.")
_PATHS = flags.DEFINE_list("examples", [], "Programs; by default all of examples/.")
_TOPOLOGIES = flags.DEFINE_list("topologies", ["v5e:2x4", "v6e:2x4"], "Kinds of TPUs, and shapes.")

if __name__ == "__main__":
    app.run(main)
