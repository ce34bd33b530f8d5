"""Which commands are there?  tfdist COMMAND ..."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Sequence

# The module of each command, which has a function `main(argv)`, and what the command does.
COMMANDS = {
    "run": ("tfdist.cli.run", "runs an unchanged Keras program, distributed"),
    "predict": ("tfdist.cli.predict", "predicts for files, into files, on any number of workers"),
    "verify": ("tfdist.cli.verify", "compares the first steps of a program with one device's"),
    "launch": ("tfdist.launch.__main__", "starts the workers of a program that uses tfdist"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Its name and arguments; those of this process by default.

    Returns:
        The exit code: 2 where there is no such command.
    """
    name, *arguments = (sys.argv[1:] if argv is None else list(argv)) or ["--help"]
    if name in ("-h", "--help"):
        print(_usage())
        return 0
    if name not in COMMANDS:
        alike = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"Did you mean {alike[0]!r}?" if alike else f"There are: {', '.join(COMMANDS)}."
        print(f"tfdist: there is no command {name!r}. {hint}", file=sys.stderr)
        return 2
    module = importlib.import_module(COMMANDS[name][0])
    code: int = module.main(arguments)
    return code


def _usage() -> str:
    lines = [f"  {name:10} {what}" for name, (_, what) in COMMANDS.items()]
    return "\n".join(
        ["usage: tfdist COMMAND ...", "", *lines, "", "tfdist COMMAND --help says more."]
    )
