"""Is a message read as it was written, and everything else refused?"""

from __future__ import annotations

import json

import hypothesis
import ml_dtypes
import numpy as np
import pytest
from hypothesis import strategies as st

from tfdist.federated import messages

_SENT = messages.pack("update", {"examples": 3}, {"a": np.arange(6.0).reshape(2, 3)})


@pytest.mark.parametrize(
    "array",
    [
        np.array(3.5, np.float32), np.zeros((0, 4)), np.array([True, False]),
        np.arange(4, dtype=np.uint64) + np.uint64(2**63), np.arange(3, dtype=">f8"),
        np.array([1.5, -2], ml_dtypes.bfloat16), np.arange(8.0).reshape(2, 4)[:, ::2],
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_come_as_they_were(array):
    [(name, found)] = messages.unpack(messages.pack("a", {}, {"x/y": array}), "a").arrays.items()
    assert name == "x/y"
    assert found.dtype == array.dtype.newbyteorder("=")
    assert found.shape == array.shape
    np.testing.assert_array_equal(found, array)
    found[...] = 0  # is nobody else's


@hypothesis.given(st.integers(0, len(_SENT) - 1), st.integers(1, 255))
def test_what_was_changed_is_an_array_or_refused(index, flip):
    """No other error comes out, and no memory is asked for beyond what has come."""
    changed = bytearray(_SENT)
    changed[index] ^= flip
    for data in (bytes(changed), _SENT[:index]):
        try:
            found = messages.unpack(data, "update")
        except ValueError as error:
            assert str(error).count(". ") >= 1
        else:
            assert sum(value.nbytes for value in found.arrays.values()) <= len(_SENT)


@pytest.mark.parametrize(
    "spec", [["a", "object", [1]], ["a", "float64", [-1]], ["a", "float64", [2**40, 2**40]], ["a"]]
)
def test_arrays_that_cannot_be_are_refused(spec):
    text = json.dumps({"kind": "a", "header": {}, "arrays": [spec]}).encode()
    with pytest.raises(ValueError, match=r"no message of tfdist\.federated"):
        messages.unpack(b"TFDF1" + len(text).to_bytes(8, "little") + text + bytes(8), "a")


def test_another_kind_is_named():
    with pytest.raises(ValueError, match="of the kind 'update' came where train or evaluate was"):
        messages.unpack(_SENT, "train", "evaluate")
