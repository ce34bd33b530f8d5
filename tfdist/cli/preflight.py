"""Will a program or a model of yours train on a TPU?  Told without one, by the TPU's own compiler.

    tfdist preflight program.py ARGS
    tfdist preflight --target=my_module:my_model --topology=v5e:2x4 --batch_size=1024
    tfdist preflight --target=my_module:my_model --fast

A program runs unchanged up to its first `fit`, whose model and batch are looked at. With --target,
`my_model()` returns a compiled Keras model, or `(model, batch)` with a small batch of its data
where the model does not tell what it takes. With neither, a small network on the digits is taken.
The step of `tfdist.fit` is compiled by the compiler that real TPUs use, in a virtual environment
that the first run makes (1.3 GB). Exit code 0 where it compiles and fits, 1 where it does not, 2
for wrong flags, or a model that cannot be looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags

from tfdist.cli import looked_at
from tfdist.cli.looked_at import Looked, look
from tfdist.launch.command_line import CommandLine


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code, as the file's docstring says.
    """
    line = _make_line()
    rest = line.parse(argv)
    given = line.flags
    try:
        found = look(line, rest, target=given.target, instead=looked_at.network, device=None)
        report, lint = _fly(found, given)
    except (RuntimeError, ValueError) as error:
        return line.failed(error)
    print(report)
    for finding in lint:
        print(finding)
    return 0 if report.compiles and report.fits else 1


def _fly(found: Looked, given: Any) -> tuple[Any, Sequence[Any]]:
    from tfdist import tpu

    report = tpu.preflight(
        found.model, found.batch, batch_size=given.batch_size or found.batch_size or 1024,
        topology=given.topology, steps_per_execution=given.steps_per_execution, fast=given.fast,
        find_largest_batch=given.find_largest_batch, venv=given.venv, cache_dir=given.cache_dir,
    )
    return report, tpu.lint(found.model, found.batch) if given.lint else ()


def _make_line() -> CommandLine:
    line = CommandLine(
        "tfdist preflight", "[--topology=KIND] [--batch_size=N] [flags] [program.py ARGS]",
        text=__doc__,
    )
    own = {"flag_values": line.flags}
    flags.DEFINE_string("target", None, "module:function that returns a compiled model.", **own)
    flags.DEFINE_string("topology", "v5e:2x4", "A kind of TPU and the shape of a slice, in chips.",
                        **own)
    flags.DEFINE_integer(
        "batch_size", None, "Examples per step, over all replicas; by default the program's, and "
        "1024 of a --target.", lower_bound=1, **own,
    )
    flags.DEFINE_integer("steps_per_execution", 1, "Steps in one execution.", lower_bound=1, **own)
    flags.DEFINE_boolean("fast", False, "Whether only to see if it compiles.", **own)
    flags.DEFINE_boolean(
        "find_largest_batch", False, "Whether to search for the largest batch that fits.", **own
    )
    flags.DEFINE_boolean("lint", True, "Whether to name what a TPU does badly, too.", **own)
    flags.DEFINE_string("venv", None, "Environment with the extra tpu-preflight, as it is.", **own)
    flags.DEFINE_string("cache_dir", None, "Folder in which that environment is made; by default "
                        "~/.cache/tfdist.", **own)
    return line
