"""tests of notebooks/: do its cells run from top to bottom, and its lines as they stand?"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys

import pytest

_CHECKOUT = pathlib.Path(__file__).parents[2]
_NOTEBOOKS = _CHECKOUT / "notebooks"
# As a notebook does it: one cell after the other, in one __main__.
_RUN_CELLS = """
import json, sys
for cell in json.loads(sys.argv[1]):
    exec(compile(cell, "cell", "exec"), globals())
"""


def _cells() -> list[str]:
    notebook = json.loads((_NOTEBOOKS / "colab_tpu.ipynb").read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


def _run(cells: list[str], folder: pathlib.Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", _RUN_CELLS, json.dumps(cells)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(_CHECKOUT)},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_cells_run_from_top_to_bottom(tmp_path: pathlib.Path) -> None:
    done = _run(_cells(), tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No TPU is attached: this trains on the CPU." in done.stdout
    accuracy = float(done.stdout.partition("test accuracy ")[2].split()[0])
    assert accuracy > 0.8
    assert "agree to " in done.stdout
    assert "digits.keras:" in done.stdout
    assert (tmp_path / "digits.keras").exists()


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_five_lines_for_a_real_tpu(tmp_path: pathlib.Path) -> None:
    block = (_NOTEBOOKS / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    assert len(block.splitlines()) == 5
    assert block.count('get_strategy("tpu")') == 1
    done = _run([block.replace('get_strategy("tpu")', 'get_strategy("cpu")')], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'accuracy'" in done.stdout


def test_notebook_is_kept_without_outputs() -> None:
    notebook = json.loads((_NOTEBOOKS / "colab_tpu.ipynb").read_text())
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells
    assert all(not cell["outputs"] and cell["execution_count"] is None for cell in cells)


def test_installing_comes_first_and_asks_for_a_restart() -> None:
    first = _cells()[0]
    assert "doctor.pip_commands" in first
    assert "raise SystemExit" in first
    assert "import tensorflow" not in first
