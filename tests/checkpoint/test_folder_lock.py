"""Can two jobs write into one folder? Not as long as both live."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tfdist.checkpoint.folder_lock import claim

_HOLD = "import sys, pathlib, time; from tfdist.checkpoint.folder_lock import claim\n" \
        "held = claim(pathlib.Path(sys.argv[1])); print('held', flush=True); time.sleep(60)"


@pytest.fixture
def holder(tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout.readline() == "held\n"
        yield child
    finally:
        child.kill()
        child.communicate(timeout=10)


def test_second_job_is_refused_by_name(holder, tmp_path):
    with pytest.raises(RuntimeError, match=f"is in use by process {holder.pid} on .*"):
        claim(tmp_path, patience_secs=0.3)


def test_claim_of_a_killed_job_is_gone(holder, tmp_path):
    holder.send_signal(signal.SIGKILL)
    with claim(tmp_path, patience_secs=5.0) as file:
        assert file.name == str(tmp_path / ".claim")


def test_claim_can_be_given_back(tmp_path):
    claim(tmp_path).close()
    code = (
        "import sys, pathlib; from tfdist.checkpoint.folder_lock import claim;"
        " claim(pathlib.Path(sys.argv[1]))"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30, check=True)


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / ".claim").mkdir()
    with pytest.raises(OSError, match=os.strerror(21)):
        claim(tmp_path)
