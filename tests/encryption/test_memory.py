"""Is a folder on a disk never taken for memory?"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile

import pytest

from tfdist.encryption import memory

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux")


def _kind_by_the_system(folder: str) -> str:
    done = subprocess.run(
        ["stat", "-f", "-c", "%T", folder], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


@pytest.mark.parametrize("folder", ["/dev/shm", "/proc", "/", "/usr/lib"])
def test_kinds_are_those_that_the_system_tells(folder):
    is_memory = memory._file_system(folder) in memory._OF_MEMORY
    assert is_memory == (_kind_by_the_system(folder) in ("tmpfs", "ramfs"))


def test_temporary_files_are_in_memory_within_the_block_alone(tmp_path, monkeypatch):
    before = tempfile.gettempdir()
    with memory.temporary_files_in_memory(), tempfile.NamedTemporaryFile() as file:
        assert _kind_by_the_system(os.path.dirname(file.name)) == "tmpfs"
    assert tempfile.gettempdir() == before
    monkeypatch.setenv(memory.FOLDER, "/dev/shm")
    assert memory.folder_of_memory() == "/dev/shm"


@pytest.mark.parametrize("folder", ["/usr/lib", "/no/such/folder"])
def test_a_disk_is_refused(monkeypatch, folder):
    monkeypatch.setenv(memory.FOLDER, folder)
    with (
        pytest.raises(RuntimeError, match=f"'{folder}' is .*Set TFDIST_MEMORY_FOLDER to a folder"),
        memory.temporary_files_in_memory(),
    ):
        pass


def test_a_link_from_memory_to_a_disk_is_a_disk(monkeypatch, tmp_path):
    if _kind_by_the_system(str(tmp_path)) == "tmpfs":
        pytest.skip("temporary files are in memory here")
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        os.symlink(tmp_path, f"{folder}/link")
        monkeypatch.setenv(memory.FOLDER, f"{folder}/link")
        with pytest.raises(RuntimeError, match="is on a file system of kind"):
            memory.folder_of_memory()
