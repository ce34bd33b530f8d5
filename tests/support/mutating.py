"""A copy of the package in which a line is wrong."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import tfdist

_PACKAGE = pathlib.Path(tfdist.__file__).parent


def mutate(fault: Any, folder: pathlib.Path) -> None:
    """Copies the package into a folder, with a fault's `new` in the place of its `old`."""
    file = copied_to(folder) / fault.file
    code = file.read_text()
    assert code.count(fault.old) == 1, "the line is no longer there: write its mutation anew"
    file.write_text(code.replace(fault.old, fault.new))


def copied_to(folder: pathlib.Path) -> pathlib.Path:
    """Copies the package into a folder; returns its path there."""
    return shutil.copytree(
        _PACKAGE, folder / "tfdist", ignore=shutil.ignore_patterns("__pycache__")
    )
