"""Is a row counted with those that are alike, and with no others?"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tfdist.privacy import k_anonymity


def test_against_a_loop():
    draw = np.random.default_rng(0)
    frame = pd.DataFrame({"a": draw.integers(0, 3, 50), "b": draw.choice(["x", "y"], 50), "c": 0.0})
    rows = list(zip(frame["a"], frame["b"], strict=True))
    alike = [sum(other == row for other in rows) for row in rows]
    found = k_anonymity(frame, ["a", "b"])
    assert (found.rows, found.left_out, found.classes) == (50, 0, len(set(rows)))
    assert found.smallest == min(alike)
    for size, classes in found.sizes.items():
        assert alike.count(size) == size * classes
    assert k_anonymity(frame, ["c"]).smallest == 50


def test_missing_values_are_alike_and_like_no_other():
    frame = pd.DataFrame({"a": [1.0, np.nan, np.nan], "b": pd.array(["x", pd.NA, None], "string")})
    assert k_anonymity(frame, ["a", "b"]).sizes == {1: 1, 2: 1}


def test_an_empty_table():
    assert k_anonymity(pd.DataFrame({"a": []}), ["a"]).smallest == 0


@pytest.mark.parametrize("names", [[], ["b"], ["a", "b"]])
def test_other_columns_are_refused(names):
    with pytest.raises(ValueError, match="must be columns of the table, which has"):
        k_anonymity(pd.DataFrame({"a": [1]}), names)
