"""tests of tfdist/tpu/report.py"""

from __future__ import annotations

import dataclasses

import pytest

from tfdist.tpu.report import Collective, Report

_FITS = Report(
    topology="v5e:2x4", device_kind="TPU v5 lite", num_replicas=8, global_batch_size=64,
    per_replica_batch_size=8, steps_per_execution=1, fast=False, compiles=True, fits=True,
    error=None, where=None, hbm_bytes_needed=3 * 2**29, hbm_bytes_available=15 * 2**30,
    parameter_bytes=2048, optimizer_bytes=100, batch_bytes=5, activation_bytes=2**20,
    program_bytes=0, flops_per_step=1_234_567, collectives=(Collective("all-reduce", 4096, 2),),
    compile_secs=1.25, largest_batch_size=128,
)  # fmt: skip


def test_what_people_read() -> None:
    lines = str(_FITS).splitlines()
    assert lines[0] == "v5e:2x4 (TPU v5 lite), 8 replica(s), compiled in full"
    assert "  memory of a chip: 1.50 GiB needed, 15.00 GiB available" in lines
    assert "    parameter: 2.00 KiB" in lines
    assert "  operations of a step, all replicas: 1.23e+06 FLOP" in lines
    assert "  all-reduce: 4.00 KiB in 2 tensors" in lines
    assert lines[-1] == "  largest global batch that fits: 128"
    assert not any(word in str(_FITS) for word in ("error", "where", "seconds", "ms"))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"fits": False, "error": "E", "where": "layer 'x' (X)"}, ["compiles: yes", "fits: NO"]),
        ({"compiles": False, "fits": False, "error": "E"}, ["compiles: NO", "fits: unknown"]),
        ({"hbm_bytes_needed": None}, ["unknown needed"]),
        ({"fast": True}, ["compiled fast"]),
    ],
)
def test_what_goes_wrong_is_said(changes: dict[str, object], expected: list[str]) -> None:
    text = str(dataclasses.replace(_FITS, **changes))  # type: ignore[arg-type]
    assert all(words in text for words in expected)
    assert ("  error: E" in text) == ("error" in changes)
    assert ("  where: layer 'x' (X)" in text) == ("where" in changes)
