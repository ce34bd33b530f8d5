"""Does the measure of an error tell a mistake from rounding?"""

from __future__ import annotations

import numpy as np
import pytest

from tfdist.cli.gpu_check import training
from tfdist.cli.gpu_check.rows import OK, WRONG, judged
from tfdist.cli.gpu_check.training import Weights

_START = [np.zeros([2, 2]), np.full([3], 5.0)]
_END = [np.full([2, 2], 0.5), np.full([3], 5.25)]


def _off(first: float, second: float = 5.25) -> float:
    found = [np.full([2, 2], 0.5, "float32"), np.full([3], second, "float32")]
    found[0][1, 0] = first
    return Weights(_START, _END, 0.0).off(Weights(_START, found, 0.0))


def test_it_is_in_units_of_the_largest_change():
    assert _off(0.5) == 0.0
    assert _off(0.505) == pytest.approx(0.01, rel=1e-4)
    assert _off(0.5, 5.2) == pytest.approx(0.1, rel=1e-4)
    assert _off(1.0) == 1.0  # a gradient that was summed twice


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_is_wrong(value):
    assert judged("x", _off(value), limit=0.2).verdict == WRONG
    assert judged("x", _off(0.5), limit=0.2).verdict == OK


def test_weights_that_did_not_move_are_wrong():
    still = Weights(_START, _START, 0.0)
    assert judged("x", still.off(still), limit=0.2).verdict == WRONG


def test_a_file_holds_them(tmp_path):
    Weights(_START, _END, 0.5).save(tmp_path / "x.npz")
    found = training.load(tmp_path / "x.npz")
    assert found.loss == 0.5
    for kept, known in zip([*found.before, *found.after], [*_START, *_END], strict=True):
        np.testing.assert_array_equal(kept, known)
