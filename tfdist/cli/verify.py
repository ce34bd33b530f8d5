"""Does an unchanged program train the same on many devices as on one?

    tfdist verify program.py ARGS
    tfdist verify --device=cpu --workers=2 --steps=5 program.py ARGS

The program runs on one device and distributed, up to the first steps of its first `fit`. Their
loss, gradients, weights, states and metrics are compared. It prints "agree to 1e-16", or the first
tensor that differs, its likely cause, and a cure. Nothing of what the program does after those
steps happens. Both runs begin with the same seed. Exit code 0 where they agree, 1 where they
differ.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import sys
from collections.abc import Sequence
from typing import Any

from tfdist import launch
from tfdist.launch import child, command


class _Enough(BaseException):
    """Ends a program after the steps that are compared; no `except Exception` catches it."""

    def __init__(self, found: dict[str, Any]) -> None:
        super().__init__()
        self.found = found


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        0 where the runs agree to rounding, 1 where they differ, 2 for wrong flags or a program that
        fails or does not train.
    """
    parser = _make_parser()
    flags = command.parse(parser, argv)
    from tfdist.diagnostics import verification

    def run(device: str, workers: int) -> list[dict[str, Any]]:
        job = functools.partial(
            record_program, flags.program, flags.args, device=device, steps=flags.steps,
            seed=flags.seed,
        )
        found: list[dict[str, Any]] = launch.run(
            job, workers=workers, timeout_secs=flags.timeout_secs
        )
        return found

    try:
        report = verification.compare(run, device=flags.device, workers=flags.workers)
    except (RuntimeError, ValueError) as error:
        print(f"tfdist verify: {error}", file=sys.stderr)
        return 2
    print(report)
    return 0 if report.agrees else 1


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
    import keras

    from tfdist.diagnostics import recording
    from tfdist.training import patching
    from tfdist.training.trainer import Trainer

    patching.patch_keras(device)
    keras.utils.set_random_seed(seed)
    fit = Trainer.fit

    def fit_and_end(trainer: Trainer, *args: Any, **kwargs: Any) -> None:
        Trainer.fit = fit  # type: ignore[method-assign]
        names = ("x", "y")
        given = {**dict(zip(names, args, strict=False)), **kwargs, "verbose": 0}
        raise _Enough(recording.recorded(trainer, steps, **given))

    Trainer.fit = fit_and_end  # type: ignore[method-assign]
    try:
        with contextlib.redirect_stdout(sys.stderr):
            child.run_script(program, list(arguments))
    except _Enough as enough:
        return enough.found
    finally:
        Trainer.fit = fit  # type: ignore[method-assign]
    raise ValueError(
        f"{program} ended without a call of Keras's fit, so there are no steps to compare. Give a "
        "program that trains by fit."
    )


def _make_parser() -> argparse.ArgumentParser:
    usage = "[--device=DEVICE] [--workers=N] [--steps=N] program.py ARGS"
    parser = command.make_parser("tfdist verify", usage, description=__doc__)
    add = parser.add_argument
    add("--device", default="2xcpu", help="what each worker of the distributed run trains on")
    add("--workers", type=int, default=1, metavar="N", help="its worker processes (default: 1)")
    add("--steps", type=int, default=5, metavar="N", help="steps to compare (default: 5)")
    add("--seed", type=int, default=0, metavar="N", help="the seed of both runs (default: 0)")
    add("--timeout_secs", type=float, default=600.0, metavar="SECS",
        help="longest time for each run, in seconds (default: 600)")
    command.add_program(parser)
    return parser
