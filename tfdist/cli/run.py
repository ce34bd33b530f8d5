"""How does an unchanged Keras program run distributed?

    tfdist run program.py ARGS                       on all that this machine has
    tfdist run --device=2xcpu program.py ARGS        on two replicas
    tfdist run --workers=4 program.py ARGS           on four workers, each with its part of it
    tfdist run --workers=4 --engine=slurm program.py ARGS

`tfdist.patch_keras` is called before the program runs: its models are made under the strategy, and
its calls of Keras's fit, evaluate, predict and *_on_batch are distributed. Everything after the
program's name belongs to the program. The terminal shows the chief's output. The whole output of
the others is kept, and shown where one of them fails; --output=all shows all of it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence

from tfdist.launch import child, command
from tfdist.launch.job import OUTPUTS
from tfdist.tracking import by_name


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code: that of the program, or of the worker that failed first; 2 for wrong flags.
    """
    parser = _make_parser()
    flags = command.parse(parser, argv)
    try:
        by_name.refuse_unknown(flags.track)
    except ValueError as error:
        parser.error(str(error))
    if flags.workers == 1 and flags.engine == "local":
        run_program(
            flags.program, flags.args, device=flags.device, is_module=flags.m, check=flags.check,
            track=flags.track,
        )
        return 0
    itself = ["run", f"--device={flags.device}", f"--check={flags.check}"]
    itself += [f"--track={name}" for name in flags.track]
    itself += [*(["-m"] if flags.m else []), flags.program]
    with tempfile.TemporaryDirectory(prefix="tfdist-") as logs:
        return command.run(
            parser, flags, ["module", "tfdist", *itself, *flags.args],
            log_dir=flags.log_dir or (logs if flags.output == "chief" else None),
        )


def run_program(
    program: str,
    arguments: Sequence[str],
    *,
    device: str,
    is_module: bool = False,
    check: str = "auto",
    track: Sequence[str] = (),
) -> None:
    """Runs a program in this process, as the main one, after `patch_keras`.

    Args:
        program: The path of a Python program, or the name of a module.
        arguments: What the program finds in `sys.argv`.
        device: As in `patch_keras`.
        is_module: Whether it is a module.
        check: "off", or as in `tfdist.fit`.
        track: Names of trackers, as `trackers` in `tfdist.fit`.

    Raises:
        ValueError: Another backend of Keras is asked for.
    """
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise ValueError(
            f"KERAS_BACKEND={backend!r} is set, and tfdist distributes Keras on TensorFlow. Unset "
            "it, or set KERAS_BACKEND=tensorflow."
        )
    from tfdist.compat import trainer_methods
    from tfdist.training import patching
    from tfdist.training.trainer import ROUTES

    strategy = patching.patch_keras(device)
    asked: str | bool = False if check == "off" else check
    ROUTES.defaults = {name: {"check": asked} for name in trainer_methods.METHODS}
    if track:
        ROUTES.defaults["fit"]["trackers"] = list(track)
    try:
        (child.run_module if is_module else child.run_script)(program, arguments)
    finally:
        if not ROUTES.calls and strategy.num_replicas_in_sync > 1:
            print(
                f"tfdist: nothing was distributed over the {strategy.num_replicas_in_sync} "
                f"replicas, since {program} called none of Keras's fit, evaluate, predict and "
                "*_on_batch. A loop of its own uses tfdist.make_train_step.",
                file=sys.stderr,
            )


def _make_parser() -> argparse.ArgumentParser:
    usage = "[--device=DEVICE] [--workers=N] [flags] program.py ARGS"
    parser = command.make_parser("tfdist run", usage, description=__doc__)
    parser.add_argument(
        "--device", default="auto", help="what each worker trains on, as in tfdist.get_strategy"
    )
    parser.add_argument(
        "--output", choices=OUTPUTS, default="chief", help="whose output is shown (default: chief)"
    )
    parser.add_argument(
        "--check", choices=("auto", "raise", "warn", "off", "whole"), default="auto",
        help="what to do where the first step is not one device's, as check in tfdist.fit",
    )
    parser.add_argument(
        "--track", action="append", default=[], metavar="NAME[:PLACE]",
        help="who is told of the run, as trackers in tfdist.fit: json, tensorboard, mlflow, wandb; "
        "may be given several times",
    )
    command.add_job(parser, workers=1)
    command.add_program(parser, may_be_module=True)
    return parser
