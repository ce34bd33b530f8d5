"""A copy of the package in which a line is wrong."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil

import tfdist

_PACKAGE = pathlib.Path(tfdist.__file__).parent


@dataclasses.dataclass(frozen=True)
class Fault:
    """What is replaced in which file.

    Attributes:
        file: Of the package.
        old: Text that stands in it once.
        new: What stands there instead.
    """

    file: str
    old: str
    new: str


def mutate(fault: Fault, folder: pathlib.Path) -> None:
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
