"""Can two jobs write into one folder? Not as long as both live."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import textwrap

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


def test_second_claim_of_one_process_is_refused_and_the_first_one_stays(tmp_path):
    own = tmp_path / "own"
    own.mkdir()
    link = tmp_path / "link"
    link.symlink_to(own)
    with claim(own):
        for name in (own, link):
            with pytest.raises(RuntimeError, match="by another Checkpointer of this process"):
                claim(name)
        assert _is_refused_elsewhere(own)
    claim(own).close()
    assert not _is_refused_elsewhere(own)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # left open
def test_claim_that_nobody_holds_any_more_is_gone(tmp_path):
    held = claim(tmp_path)
    del held
    gc.collect()
    claim(tmp_path).close()


def test_claim_of_a_forked_processs_parent_is_another_processs(tmp_path):
    code = """
    import os, pathlib, sys
    from tfdist.checkpoint.folder_lock import claim
    held = claim(pathlib.Path(sys.argv[1]))
    if not os.fork():
        try:
            claim(pathlib.Path(sys.argv[1]), patience_secs=0)
        except RuntimeError as error:
            os._exit("in use by process" in str(error))
    assert os.waitstatus_to_exitcode(os.wait()[1]) == 1
    """
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)], timeout=30, check=True
    )


def _is_refused_elsewhere(folder):
    code = (
        "import sys, pathlib; from tfdist.checkpoint.folder_lock import claim;"
        " claim(pathlib.Path(sys.argv[1]), patience_secs=0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder)], timeout=30, check=False, capture_output=True
    )
    return b"is in use by process" in done.stderr


def test_folder_that_cannot_be_written(tmp_path):
    (tmp_path / ".claim").mkdir()
    with pytest.raises(OSError, match=os.strerror(21)):
        claim(tmp_path)
