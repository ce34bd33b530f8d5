"""Does an allocation beyond the limit fail, and is memory told as it is?"""

from __future__ import annotations

import gc
import sys

import numpy as np
import pytest

from tfdist.diagnostics import memory_limit

_MIB = 2**20
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


def test_an_allocation_beyond_the_limit_fails():
    with memory_limit.limited(memory_limit.resident_bytes() + 256 * _MIB):
        np.ones(64 * _MIB, np.uint8)
        with pytest.raises(MemoryError):
            np.ones(512 * _MIB, np.uint8)
    np.ones(512 * _MIB, np.uint8)  # and the limit ends with the block


def test_no_limit():
    with memory_limit.limited(None):
        np.ones(512 * _MIB, np.uint8)


def test_a_limit_that_is_passed_already():
    with pytest.raises(ValueError, match="is less than the"), memory_limit.limited(1):
        pass


def test_off_linux(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_limit, "_STATUS", tmp_path / "none")
    monkeypatch.setattr(memory_limit, "_MEMINFO", tmp_path / "none")
    assert memory_limit.available_bytes() is None
    with pytest.raises(ValueError, match="on Linux alone"), memory_limit.limited(2**40):
        pass
    with pytest.raises(RuntimeError, match="none is missing"):
        memory_limit.resident_bytes()


def test_peak_stays_when_memory_is_given_back():
    gc.collect()
    before = memory_limit.resident_bytes()
    array = np.ones(512 * _MIB, np.uint8)
    # Less than the array: what tests before this one held may be given back meanwhile.
    assert memory_limit.resident_bytes() >= before + 200 * _MIB
    del array
    assert memory_limit.peak_resident_bytes() >= before + 200 * _MIB


def test_a_container_has_what_it_has_left(monkeypatch, tmp_path):
    monkeypatch.setattr(memory_limit, "_CGROUP", tmp_path)
    whole = memory_limit.available_bytes()
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("70\n")
    assert memory_limit.available_bytes() == pytest.approx(whole, rel=0.2)
    (tmp_path / "memory.max").write_text("100\n")
    assert memory_limit.available_bytes() == 30
