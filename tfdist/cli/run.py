"""How does an unchanged Keras program run distributed?

    tfdist run program.py ARGS                       on all that this machine has
    tfdist run --device=2xcpu program.py ARGS        on two replicas
    tfdist run --workers=4 program.py ARGS           on four workers, each with its part of it
    tfdist run --workers=4 --engine=slurm program.py ARGS

`tfdist.patch_keras` is called before the program runs: its models are made under the strategy, and
its calls of Keras's fit, evaluate, predict and *_on_batch are distributed. Everything after the
program's name belongs to the program. The terminal shows the chief's output; --output=all shows all
of it. The whole output of each worker, TensorFlow's informational log too, is in --log_dir; without
it in a temporary folder, which stays, and is named, where the run fails. Of TensorFlow's log the
terminal gets warnings and errors, and with TF_CPP_MIN_LOG_LEVEL=0 all of it.

The exit code is the program's, or that of the worker that failed first: 128 + n if signal n killed
it, 75 if the run was told to stop and is saved, 124 if time was up, 2 for wrong flags.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

from absl import flags

from tfdist.cluster import contract, quiet
from tfdist.launch import child, command
from tfdist.launch.command_line import CommandLine
from tfdist.launch.job import OUTPUTS
from tfdist.tracking import by_name

# In the error of TensorFlow's distributed variables outside of `strategy.run`.
_NO_REPLICA = "outside the replica context"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command.

    Args:
        argv: Its arguments; those of this process by default.

    Returns:
        The exit code: that of the program, or of the worker that failed first; 2 for wrong flags.
    """
    line = _make_line()
    program, arguments = command.parse(line, argv)
    given = line.flags
    try:
        by_name.refuse_unknown(given.track)
    except ValueError as error:
        line.refuse(str(error))
    if command.is_alone(line):
        try:
            strategy = prepare(given.device)
        except (ValueError, RuntimeError) as error:
            if contract.RUN_DIR in os.environ:  # the launcher tells it, and whose it is
                raise
            return line.failed(error)
        run_program(
            program, arguments, strategy, is_module=given.module, check=given.check,
            track=given.track,
        )
        return 0
    itself = ["run", f"--device={given.device}", f"--check={given.check}"]
    itself += [f"--track={name}" for name in given.track]
    itself += [*(["-m"] if given.module else []), program]
    logs = given.log_dir or tempfile.mkdtemp(prefix="tfdist-logs-")
    code = 1
    try:
        code = command.run(line, ["module", "tfdist", *itself, *arguments], log_dir=logs)
    finally:
        if code == 0 and not given.log_dir:  # else they are what is left to look at
            shutil.rmtree(logs, ignore_errors=True)
    return code


def prepare(device: str) -> Any:
    """Makes Keras distributed, says what was chosen, and returns the strategy.

    Args:
        device: As in `patch_keras`.

    Raises:
        ValueError: Another backend of Keras is asked for, or the environment contradicts itself.
        RuntimeError: The device or another worker is not there.
    """
    is_launched = contract.RUN_DIR in os.environ  # then the launcher says what is logged
    is_quiet = not is_launched and quiet.hides_information(os.environ)
    if is_quiet:
        os.environ.setdefault(quiet.LOG_LEVEL, quiet.WITHOUT_INFORMATION)
    backend = os.environ.setdefault("KERAS_BACKEND", "tensorflow")
    if backend != "tensorflow":
        raise ValueError(
            f"KERAS_BACKEND={backend!r} is set, and tfdist distributes Keras on TensorFlow. Unset "
            "it, or set KERAS_BACKEND=tensorflow."
        )
    with quiet.without_information() if is_quiet else contextlib.nullcontext():
        from tfdist.communication.share import share_of
        from tfdist.strategy import factory
        from tfdist.training import patching

        strategy = patching.patch_keras(device)
    if share_of(strategy).first_replica == 0:
        chosen = [line.strip() for line in factory.describe(strategy).splitlines()]
        print(f"tfdist: {'; '.join(chosen)}", file=sys.stderr, flush=True)
    return strategy


def run_program(
    program: str,
    arguments: Sequence[str],
    strategy: Any,
    *,
    is_module: bool = False,
    check: str = "auto",
    track: Sequence[str] = (),
) -> None:
    """Runs a program in this process, as the main one, after `prepare`.

    Args:
        program: The path of a Python program, or the name of a module.
        arguments: What the program finds in `sys.argv`.
        strategy: What `prepare` returned.
        is_module: Whether it is a module.
        check: "off", or as in `tfdist.fit`.
        track: Names of trackers, as `trackers` in `tfdist.fit`.
    """
    from tfdist.compat import trainer_methods
    from tfdist.training.trainer import ROUTES

    asked: str | bool = False if check == "off" else check
    ROUTES.defaults = {name: {"check": asked} for name in trainer_methods.METHODS}
    if track:
        ROUTES.defaults["fit"]["trackers"] = list(track)
    try:
        (child.run_module if is_module else child.run_script)(program, arguments)
    except (ValueError, RuntimeError) as error:
        if _NO_REPLICA not in str(error):
            raise
        raise RuntimeError(
            f"{program} takes gradients in a loop of its own, and not in one of Keras's fit, where "
            f"no replica's variables are to be had. Make the loop's step by "
            "tfdist.make_train_step, or run the program on one device, without tfdist run."
        ) from error
    finally:
        if not ROUTES.calls and strategy.num_replicas_in_sync > 1:
            print(
                f"tfdist: nothing was distributed over the {strategy.num_replicas_in_sync} "
                f"replicas, since {program} called none of Keras's fit, evaluate, predict and "
                "*_on_batch. A loop of its own uses tfdist.make_train_step.",
                file=sys.stderr,
            )


def _make_line() -> CommandLine:
    usage = "[--device=DEVICE] [--workers=N] [flags] program.py ARGS"
    line = CommandLine("tfdist run", usage, text=__doc__)
    own = {"flag_values": line.flags}
    flags.DEFINE_string(
        "device", "auto", "What each worker trains on, as in tfdist.get_strategy: cpu, 4xcpu, gpu, "
        "gpu:0,3, tpu, ... or auto.", **own,
    )
    flags.DEFINE_enum("output", "chief", OUTPUTS, "Whose output is shown.", **own)
    flags.DEFINE_enum(
        "check", "auto", ("auto", "raise", "warn", "off", "whole"),
        "What to do where the first step is not one device's, as check in tfdist.fit.", **own,
    )
    flags.DEFINE_multi_string(
        "track", [], "Who is told of the run, as trackers in tfdist.fit: json, tensorboard, mlflow "
        "or wandb, as NAME or NAME:PLACE; may be given several times.", **own,
    )
    command.add_job(line, workers=1)
    command.add_module(line)
    return line
