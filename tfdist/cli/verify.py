"""Does a program or a model of yours train the same on many devices as on one?

    tfdist verify program.py ARGS
    tfdist verify --device=cpu --workers=2 --steps=5 program.py ARGS
    tfdist verify --target=my_module:my_case --device=2xcpu

A program runs unchanged on one device and distributed, up to the first steps of its first `fit`.
Their loss, gradients, weights, states and metrics are compared. It prints "agree to 1e-16", or the
first tensor that differs, its likely cause, and a cure. Nothing of what the program does after
those steps happens. Both runs begin with the same seed.

With --target, `my_case()` returns `(build_fn, x, y)`: a function that builds and compiles the
model, and arrays. With neither, a small network on the digits is checked. Exit code 0 where they
agree, 1 where they differ, 2 for wrong flags, or a program that fails or does not train.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfdist import launch
from tfdist.cli import first_fit, looked_at
from tfdist.cli.named_functions import function_of
from tfdist.launch import command
from tfdist.launch.command_line import CommandLine

_OF_A_TARGET = ("global_batch_size", "floatx")


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
    looked_at.refuse_two(line, rest, given.target)
    if rest:
        if wrong := [name for name in _OF_A_TARGET if given[name].present]:
            line.refuse(f"--{wrong[0]} is for --target; a program says itself what it trains with")
        program, arguments = command.parse(line, argv)
    try:
        report = _of_program(given, program, arguments) if rest else _of_target(line)
    except (RuntimeError, ValueError) as error:
        return line.failed(error)
    print(report)
    return 0 if report.agrees else 1


def _of_target(line: CommandLine) -> Any:
    import keras

    from tfdist.diagnostics import verification

    given = line.flags
    keras.config.set_floatx(given.floatx)
    try:
        case = (function_of(given.target) if given.target else looked_at.case_of_digits)()
    except ValueError as error:
        line.refuse(f"--target={error}")
    if not isinstance(case, tuple) or len(case) != 3:
        line.refuse(
            f"--target={given.target!r} returned {type(case).__name__}; it has to return "
            "(build_fn, x, y)"
        )
    build_fn, x, y = case
    return verification.verify(
        build_fn, x, y, device=given.device, workers=given.workers, steps=given.steps,
        batch_size=given.global_batch_size, seed=given.seed, timeout_secs=given.timeout_secs,
    )


def _of_program(given: Any, program: str, arguments: Sequence[str]) -> Any:
    from tfdist.diagnostics import verification

    def run(device: str, workers: int) -> list[dict[str, Any]]:
        job = functools.partial(
            record_program, program, arguments, device=device, steps=given.steps, seed=given.seed
        )
        found: list[dict[str, Any]] = launch.run(
            job, workers=workers, timeout_secs=given.timeout_secs
        )
        return found

    return verification.compare(run, device=given.device, workers=given.workers)


def record_program(
    program: str, arguments: Sequence[str], *, device: str, steps: int, seed: int
) -> dict[str, Any]:
    """Runs a program up to the first steps of its first `fit`, and returns their record.

    Args:
        program: The path of a Python program.
        arguments: What it finds in `sys.argv`.
        device: As in `patch_keras`.
        steps: How many steps to record, at most.
        seed: Of everything that the program draws before it sets a seed itself.

    Raises:
        ValueError: The program never called `fit`.
    """
    from tfdist.diagnostics import recording

    def look(trainer: Any, given: dict[str, Any]) -> dict[str, Any]:
        return recording.recorded(trainer, steps, **{**given, "verbose": 0})

    found: dict[str, Any] = first_fit.look_at_first_fit(
        program, arguments, look, device=device, seed=seed
    )
    return found


def _make_line() -> CommandLine:
    usage = "[--device=DEVICE] [--workers=N] [--steps=N] [program.py ARGS]"
    line = CommandLine("tfdist verify", usage, text=__doc__)
    own = {"flag_values": line.flags}
    flags.DEFINE_string("target", None, "module:function that returns (build_fn, x, y).", **own)
    flags.DEFINE_string("device", "2xcpu", "What each worker of the distributed run trains on.",
                        **own)
    flags.DEFINE_integer("workers", 1, "Its worker processes.", lower_bound=1, **own)
    flags.DEFINE_integer("steps", 5, "Steps to compare.", lower_bound=1, **own)
    flags.DEFINE_integer("seed", 0, "The seed of both runs.", **own)
    flags.DEFINE_integer(
        "global_batch_size", 33, "Examples per step, over all replicas, of --target.",
        lower_bound=1, **own,
    )
    flags.DEFINE_enum(
        "floatx", "float64", ["float64", "float32"],
        "Precision of layers of --target that do not name their own.", **own,
    )
    flags.DEFINE_float(
        "timeout_secs", 600.0, "Longest time for each run, in seconds.", lower_bound=0.0, **own
    )
    return line
