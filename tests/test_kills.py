"""Does a run whose processes are killed, again and again, end with the bits of one that was not?"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

_CHAOS = pathlib.Path(__file__).parent.parent / "scripts" / "chaos.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("workers", "kills"), [(1, 3), (2, 3)])
def test_killed_workers_do_no_harm(workers, kills):
    flags = [f"--kills={kills}", f"--workers={workers}", "--epochs=3", f"--seed={workers}"]
    done = subprocess.run(
        [sys.executable, str(_CHAOS), *flags],
        cwd=_CHAOS.parent.parent,
        env=None,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"kills: {kills}, " in done.stdout
    assert "yes  weights and optimizer equal bit for bit" in done.stdout
    assert "yes  each epoch used each example once" in done.stdout
