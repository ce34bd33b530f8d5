"""Does notebooks/start.ipynb run from top to bottom, and end with what it promises?"""

from __future__ import annotations

import pathlib
import re

import notebook
import pytest

_NAME = "start.ipynb"
# What the plot shows, in numbers.
_COMPARED = """
for name in alone:
    print("apart", max(abs(one - other) for one, other in zip(alone[name], distributed[name])))
"""


# 19 s of a core, of which 12 are the processes of `verify`. Only here a program is patched,
# verified and taken back in one process, as people do it in a notebook.
@pytest.mark.slow
@pytest.mark.timeout(700)
def test_cells_run_from_top_to_bottom(tmp_path: pathlib.Path) -> None:
    done = notebook.run_cells([*notebook.sources(_NAME), _COMPARED], tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 replicas" in done.stdout
    accuracies = re.findall(r"test \{'accuracy': ([\d.]+)", done.stdout)
    assert len(accuracies) == 2
    assert min(map(float, accuracies)) > 0.9
    assert "agree to " in done.stdout
    apart = [float(line.split()[1]) for line in done.stdout.splitlines() if "apart" in line]
    assert len(apart) == 2
    assert max(apart) < 1e-4  # float32: sums of 128 rows, or of two times 64
    assert (tmp_path / "training.png").stat().st_size > 10_000


def test_it_is_kept_without_outputs() -> None:
    assert notebook.is_kept_clean(_NAME)
