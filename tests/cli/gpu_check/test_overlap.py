"""Is it seen whether sums and copies run while something is computed?"""

from __future__ import annotations

from tfdist.cli.gpu_check import overlap
from tfdist.cli.gpu_check.rows import LEFT_OUT
from tfdist.cli.gpu_check.trace_file import Event


def _event(name: str, start: float, end: float, line: str = "1") -> Event:
    return Event("/device:GPU:0", line, name, start, end)


def test_a_sum_beside_a_kernel_and_one_alone():
    events = [
        _event("sgemm_128x64", 0.0, 4.0),
        _event("ncclDevKernel_AllReduce_Sum_f32", 1.0, 3.0, line="2"),
        _event("ncclDevKernel_AllReduce_Sum_f32", 5.0, 7.0, line="2"),
        _event("while/StatefulPartitionedCall", 0.0, 9.0),  # only holds the others
    ]
    devices, sums, copies = overlap.judged(events)
    assert "busy for 6000.0 of 9000.0 ms" in devices.text
    assert "4000.0 ms, 50 % of it while" in sums.text
    assert copies.verdict == LEFT_OUT


def test_spans_are_merged_and_cut():
    assert overlap.merged([(3, 4), (0, 2), (1, 3)]) == [(0, 4)]
    assert overlap.both([(0, 2), (4, 6)], [(1, 5)]) == [(1, 2), (4, 5)]
