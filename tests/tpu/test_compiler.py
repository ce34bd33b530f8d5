"""tests of what tfdist/tpu/compiler.py reads out of the compiler's words; the rest of it is slow"""

from __future__ import annotations

import pytest

from tfdist.tpu import compiler


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the total memory required for HLO temporaries (600.00G) exceeds ...", 600 * 2**30),
        ("Used 16.50G of 15.75G hbm. Exceeded hbm capacity by 768M.", int(16.5 * 2**30)),
        ("Used 12K of 1K smem", 12 * 2**10),
        ("something else", None),
    ],
)
def test_memory_of_a_refusal(text: str, expected: int | None) -> None:
    assert compiler._needed(text) == expected


_HLO = """
  %all-reduce.1 = (f32[64,256]{1,0:T(8,128)S(1)}, f32[10]{0:T(128)}) all-reduce(%a.1, %b), groups={}
  ROOT %all-reduce = bf16[7]{0} all-reduce(%c), metadata={op_name="all-reduce(%x)"}
  %g = f32[64]{0} get-tuple-element(%all-reduce.1), index=0
  %s = (s32[2]{0}, s32[16]{0}) all-gather-start(%d), dimensions={0}
  %e = s32[16]{0} all-gather-done(%s)
  %p = pred[] all-reduce(%q)
"""


def test_collectives_of_a_program() -> None:
    assert list(compiler._collectives(_HLO)) == [
        {"kind": "all-reduce", "bytes": 64 * 256 * 4 + 40, "tensors": 2},
        {"kind": "all-reduce", "bytes": 14, "tensors": 1},
        {"kind": "all-gather", "bytes": 64, "tensors": 1},
        {"kind": "all-reduce", "bytes": 1, "tensors": 1},
    ]
