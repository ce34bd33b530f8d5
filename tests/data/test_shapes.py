"""tests of tfdist/data/shapes.py"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tfdist.data.shapes import Shapes, parse_shapes


@pytest.mark.parametrize(
    ("static_shapes", "length_buckets", "is_tpu", "expected"),
    [
        (None, None, False, Shapes(False, ())),
        (None, None, True, Shapes(True, ())),
        (True, None, False, Shapes(True, ())),
        (None, (64, 8, 64), False, Shapes(True, (8, 64))),
        (True, [np.int64(4)], False, Shapes(True, (4,))),
    ],
)
def test_shapes(static_shapes: Any, length_buckets: Any, is_tpu: bool, expected: Shapes) -> None:
    assert parse_shapes(static_shapes, length_buckets, is_tpu=is_tpu) == expected


@pytest.mark.parametrize("length_buckets", [(), (0,), (-1, 4), (True,), (2.5,), 32, "32", (None,)])
def test_lengths_are_positive_integers(length_buckets: Any) -> None:
    with pytest.raises(ValueError, match="one positive integer or more"):
        parse_shapes(None, length_buckets, is_tpu=False)


def test_lengths_without_static_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="static_shapes=False asks for none"):
        parse_shapes(False, (4, 8), is_tpu=False)
