"""Does a run that is disturbed, again and again, end with the bits of one that was not?"""

from __future__ import annotations

import pathlib
import subprocess
import sys

import pytest

_CHAOS = pathlib.Path(__file__).parents[2] / "scripts" / "chaos.py"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("how", "workers", "kills"),
    [
        pytest.param(("kill", "term", "stop"), "2", 3, id="two workers"),
        # A quarter of a minute: nothing else goes on from encrypted checkpoints after real kills.
        pytest.param(("kill",), "2", 2, id="two workers, encrypted"),
        pytest.param(("disk", "truncate", "kill"), "2", 3, id="two workers, damaged files"),
        pytest.param(("kill", "term", "stop", "disk", "truncate"), "1", 5, id="one worker"),
        # Half a minute on two quiet cores. Nothing else trains on while workers go and come.
        pytest.param(("lose", "fork", "gain"), "2:3", 3, id="three workers, two, three"),
    ],
)
def test_disturbed_workers_end_with_the_bits_of_undisturbed_ones(how, workers, kills, request):
    is_encrypted = "encrypted" in request.node.callspec.id
    flags = [f"--how={','.join(how)}", f"--kills={kills}", f"--workers={workers}", "--epochs=3"]
    flags += ["--encrypt"] if is_encrypted else []
    done = subprocess.run(
        [sys.executable, str(_CHAOS), *flags, f"--seed={workers[0]}"],
        cwd=_CHAOS.parent.parent,
        env=None,
        capture_output=True,
        text=True,
        timeout=580,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert f"disturbances: {kills}; losses: 0; " in done.stdout
    exactly = "to 1e-12 of one device" if ":" in workers else "bit for bit"
    assert f"yes  weights and optimizer equal {exactly}" in done.stdout
    assert "yes  each epoch used each example once" in done.stdout
    if is_encrypted:
        assert "yes  no weight could be read in the checkpoints" in done.stdout
    if "truncate" in how:
        assert "was cut to" in done.stdout
        assert "is damaged: " in done.stderr


def test_unknown_disturbance_is_refused():
    done = subprocess.run(
        [sys.executable, str(_CHAOS), "--how=quake"],
        capture_output=True, text=True, timeout=60, check=False,
    )
    assert done.returncode == 1
    assert "flag --how=['quake']: must be of ['pause', 'fork'" in done.stderr
