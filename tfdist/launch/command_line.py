"""How are the arguments of a command read?  Flags of absl, then the program and what is its own.

Synopsis:

    >>> line = CommandLine("tfdist wait", "[--secs=SECONDS] PROGRAM ARGS", text="Waits.")
    >>> _ = flags.DEFINE_float("secs", 1.0, "How long, in seconds.", flag_values=line.flags)
    >>> line.parse(["--secs=2", "train.py", "--secs=3"]), line.flags.secs
    (['train.py', '--secs=3'], 2.0)

Each command has flags of its own, so that no command knows those of another, and a program that
defines flags with absl finds none of ours among them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from absl import flags

WRONG_FLAGS_EXIT_CODE = 2


class CommandLine:
    """The arguments of one command.

    Args:
        name: The command, such as "tfdist run".
        usage: What follows it.
        text: What its help says, as it is laid out.
        is_mixed: Whether flags may follow other arguments; not where those are a program's.

    Attributes:
        flags: Where its flags are defined, and their values after `parse`.
    """

    def __init__(self, name: str, usage: str, *, text: str | None, is_mixed: bool = False) -> None:
        self._name, self._usage, self._text = name, usage, text or ""
        self.flags: Any = flags.FlagValues()
        self.flags.set_gnu_getopt(is_mixed)  # else what follows the program is the program's
        flags.DEFINE_boolean(
            "help", False, "Shows this.", short_name="h", flag_values=self.flags
        )

    def parse(self, argv: Sequence[str] | None) -> list[str]:
        """Reads the flags, and returns what follows them; ends the process where one is wrong.

        Args:
            argv: Those of this process by default.
        """
        given = sys.argv[1:] if argv is None else list(argv)
        try:
            rest: list[str] = self.flags([self._name, *given])[1:]
        except flags.Error as error:
            self.refuse(str(error).strip())
        if self.flags.help:
            print(self.help())
            raise SystemExit(0)
        return rest

    def parse_flags_alone(self, argv: Sequence[str] | None) -> None:
        """Reads the flags of a command that takes nothing else; as `parse`."""
        if rest := self.parse(argv):
            self.refuse(f"{rest[0]!r} is no flag; flags are given as --name=value")

    def values(self) -> dict[str, Any]:
        """Returns the flags' values by name."""
        found: dict[str, Any] = self.flags.flag_values_dict()
        return found

    def refuse(self, problem: str) -> NoReturn:
        """Ends the process, since the command cannot be done as it is asked for."""
        print(
            f"{self._name}: {problem}\nusage: {self._name} {self._usage}\n"
            f"{self._name} --help says more.",
            file=sys.stderr,
        )
        raise SystemExit(WRONG_FLAGS_EXIT_CODE)

    def failed(self, error: Exception) -> int:
        """Tells why the command could not be done; returns its exit code."""
        print(f"{self._name}: {error}", file=sys.stderr)
        return WRONG_FLAGS_EXIT_CODE

    def help(self) -> str:
        """Returns what the command does, and its flags with their defaults."""
        shown = self.flags.get_help(include_special_flags=False).splitlines()
        own = [line for line in shown if line.startswith(" ")]  # without the names of our files
        return "\n".join([f"usage: {self._name} {self._usage}", "", self._text, "Flags:", *own])
