"""What can be done from a terminal?  What each command says for --help, for docs/command.md."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
from typing import Any

from tfdist.cli import commands

_MARK = "<!-- commands -->"
_CHECKOUT = pathlib.Path(__file__).resolve().parents[2]
_WIDTH = 88  # columns of a page


def markdown() -> str:
    """Returns a section for each command, with its help."""
    lines = []
    for name, (_, what) in commands.COMMANDS.items():
        lines += [f"## tfdist {name}", "", f"{what[0].upper()}{what[1:]}.", ""]
        lines += ["```text", _help_of(name).strip(), "```", ""]
    return "\n".join(lines)


def _help_of(name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tfdist", name, "--help"], capture_output=True, text=True,
        timeout=60, check=False, cwd=_CHECKOUT, env={**os.environ, "COLUMNS": str(_WIDTH)},
    )
    if not done.stdout.strip():
        raise RuntimeError(f"tfdist {name} --help prints nothing: {done.stderr[-500:]}")
    return done.stdout


def setup(app: Any) -> dict[str, bool]:
    """Puts the sections into the page, each time when it is read."""

    def fill(app: Any, name: str, content: list[str]) -> None:
        if name == "command":
            content[0] = content[0].replace(_MARK, markdown())

    app.connect("source-read", fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
