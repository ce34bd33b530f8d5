"""Which commands are there?  tfdist COMMAND ..."""

from __future__ import annotations

import difflib
import importlib
import os
import signal
import sys
from collections.abc import Sequence

from tfdist.launch.command_line import WRONG_FLAGS_EXIT_CODE
from tfdist.launch.output import let_go_of_broken_streams

# The module of each command, which has a function `main(argv)`, and what the command does. Each is
# imported when it is asked for, and itself imports TensorFlow only where it trains something.
COMMANDS = {
    "run": ("tfdist.cli.run", "runs an unchanged Keras program, distributed"),
    "predict": ("tfdist.cli.predict", "predicts for files, into files, on any number of workers"),
    "launch": ("tfdist.launch.__main__", "starts the workers of a program that uses tfdist"),
    "doctor": ("tfdist.cli.doctor", "says what would train here, what is wrong, and what to do"),
    "verify": ("tfdist.cli.verify", "compares the first steps of a program with one device's"),
    "encrypt": ("tfdist.cli.encrypt", "encrypts a file, such as a model, to public keys of age"),
    "decrypt": ("tfdist.cli.decrypt", "decrypts such a file, with an identity"),
    "preflight": ("tfdist.cli.preflight", "says whether a model trains on a TPU, without one"),
    "estimate": ("tfdist.cli.estimate", "says how much memory training takes, and what fits"),
    "privacy": ("tfdist.cli.privacy", "says what private training promises, without training"),
    "benchmark": ("tfdist.cli.benchmark", "measures how much faster more workers are here"),
    "render": ("tfdist.cli.render", "describes a job to a cluster that starts the workers"),
    "env": ("tfdist.cli.env", "shows versions and places, to paste into a report"),
}
_EXIT_CODES = """\
Exit codes:
  0        it went well
  1        the answer is no: runs differ, training cannot start, a model does not fit; or the
           program ended with an error (with another code of its own, that one)
  2        wrong flags, or what was asked for could not begin
  75       told to stop, and the run is saved: the same command goes on
  124      time was up, or no step for too long
  128 + n  a worker was killed by signal n"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Its name and arguments; those of this process by default.

    Returns:
        The exit code: 2 where there is no such command.
    """
    name, *arguments = (sys.argv[1:] if argv is None else list(argv)) or ["help"]
    if name in ("-h", "--help", "help"):
        if not arguments:
            print(_usage())
            return 0
        name, arguments = arguments[0], ["--help"]
    if name in ("--version", "-V", "version"):
        print(f"tfdist {_version()}")
        return 0
    if name not in COMMANDS:
        print(f"tfdist: {_wrong(name)}", file=sys.stderr)
        return WRONG_FLAGS_EXIT_CODE
    module = importlib.import_module(COMMANDS[name][0])
    try:
        code: int = module.main(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:  # such as `tfdist env | head`
        let_go_of_broken_streams()
        return 128 + signal.SIGPIPE
    return code


def _wrong(name: str) -> str:
    if os.path.isfile(name) and name.endswith(".py"):
        return f"{name!r} is a program. To run it distributed: tfdist run {name}"
    if name.startswith("-"):
        return f"flags come after the command, as in: tfdist run {name} program.py"
    alike = difflib.get_close_matches(name, [*COMMANDS, "help", "version"], n=1)
    hint = f"Did you mean {alike[0]!r}?" if alike else f"There are: {', '.join(COMMANDS)}."
    return f"there is no command {name!r}. {hint}"


def _version() -> str:
    return str(sys.modules["tfdist"].__version__)


def _usage() -> str:
    lines = [f"  {name:10} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        [
            "Distributed training with Keras that gives what one device gives.", "",
            "usage: tfdist COMMAND [--flag=value ...] ...", "", *lines,
            f"  {'help':10} says more of a command: tfdist help run",
            f"  {'--version':10} shows which tfdist this is", "", _EXIT_CODES,
        ]
    )  # fmt: skip
