"""Does notebooks/colab_tpu.ipynb run from top to bottom, and do its lines as they stand?"""

from __future__ import annotations

import pathlib

import notebook
import pytest

_NAME = "colab_tpu.ipynb"


@pytest.mark.slow
@pytest.mark.timeout(700)
def test_cells_run_from_top_to_bottom(tmp_path: pathlib.Path) -> None:
    done = notebook.run_cells(notebook.sources(_NAME), tmp_path)
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
    text = (notebook.FOLDER / "README.md").read_text()
    block = text.partition("```python\n")[2].partition("```")[0]
    assert len(block.splitlines()) == 5
    assert block.count('get_strategy("tpu")') == 1
    on_cpu = block.replace('get_strategy("tpu")', 'get_strategy("cpu")')
    done = notebook.run_cells([on_cpu], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "'accuracy'" in done.stdout


def test_notebook_is_kept_without_outputs() -> None:
    assert notebook.is_kept_clean(_NAME)


def test_installing_comes_first_and_asks_for_a_restart() -> None:
    first = notebook.sources(_NAME)[0]
    assert "doctor.pip_commands" in first
    assert "raise SystemExit" in first
    assert "import tensorflow" not in first
