"""How is a notebook run by a test?  Its cells from top to bottom, as they stand, in one process."""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

CHECKOUT = pathlib.Path(__file__).parents[2]
FOLDER = CHECKOUT / "notebooks"
# As a notebook does it: one cell after the other, in one __main__.
_RUN_CELLS = """
import json, sys
for cell in json.loads(sys.argv[1]):
    exec(compile(cell, "cell", "exec"), globals())
"""


def code_cells(name: str) -> list[dict[str, Any]]:
    """Returns the cells with code of a notebook, as they are kept."""
    notebook = json.loads((FOLDER / name).read_text())
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def sources(name: str) -> list[str]:
    """Returns the code of a notebook's cells, in their order."""
    return ["".join(cell["source"]) for cell in code_cells(name)]


def run_cells(cells: Sequence[str], folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    """Runs cells in a new process, in a folder, with this checkout and without a screen."""
    return subprocess.run(
        [sys.executable, "-c", _RUN_CELLS, json.dumps(list(cells))],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(CHECKOUT), "MPLBACKEND": "Agg"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def is_kept_clean(name: str) -> bool:
    """Tells whether a notebook is kept without outputs, of which each run would make other ones."""
    cells = code_cells(name)
    return bool(cells) and all(
        not cell["outputs"] and cell["execution_count"] is None for cell in cells
    )
