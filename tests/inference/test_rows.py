"""Is every row read once, in order, and a bad one told?"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import strategies as st

from tfdist.inference.rows import ArrayRows, ImageRows, RecordRows, as_rows, split


@given(st.lists(st.integers(), max_size=20), st.integers(1, 6))
def test_shares_are_all_items_in_order(items, size):
    shares = [split(items, rank=rank, size=size) for rank in range(size)]
    assert [item for share in shares for item in share] == items
    lengths = [len(share) for share in shares]
    assert max(lengths) - min(lengths) <= 1


def test_what_can_be_sliced_is_split():
    split_in_two = {"rank": 1, "size": 2}
    assert split((1, 2, 3), **split_in_two) == (3,)
    assert split(np.arange(4), **split_in_two).tolist() == [2, 3]
    assert split({"a": [1, 2], "b": np.arange(2)}, **split_in_two) == {"a": [2], "b": [1]}
    assert split([5]) == [5]  # one worker


@pytest.mark.parametrize(
    ("items", "told"),
    [("a text", "is one text"), ({"a": [1], "b": [1, 2]}, r"the lengths \[1, 2\]")],
)
def test_what_cannot_be_split_is_refused(items, told):
    with pytest.raises(ValueError, match=told):
        split(items, rank=0, size=1)


def test_arrays_are_rows():
    rows = as_rows({"a": np.arange(6), "b": np.ones([6, 2])})
    block = rows.read(2, 5)
    assert (len(rows), block.x["a"].tolist(), block.x["b"].shape) == (6, [2, 3, 4], (3, 2))
    assert (block.ids.tolist(), block.bad) == ([2, 3, 4], ())
    with pytest.raises(ValueError, match=r"have \[2, 3\] rows"):
        ArrayRows([np.ones(2), np.ones(3)])


def test_other_arrays_are_described_otherwise():
    x = np.arange(1000.0)
    others = [x + 1, x[:-1], x.astype(np.float32), x[:, None]]
    assert ArrayRows(x).describe() == ArrayRows(x.copy()).describe()
    assert all(ArrayRows(x).describe() != ArrayRows(other).describe() for other in others)


def test_a_record_that_cannot_be_parsed_is_bad(tmp_path):
    file = tmp_path / "numbers.txt"
    file.write_text("1 2\n3 four\n5 6\n")
    rows = RecordRows(
        [file], lambda line: tf.strings.to_number(tf.strings.split(line)), format="text"
    )
    block = rows.read(0, 3)
    assert (len(rows), block.x.tolist(), block.ids.tolist()) == (3, [[1, 2], [5, 6]], [0, 2])
    [bad] = block.bad
    assert bad.id == 1
    assert "four" in bad.reason


def test_an_image_that_cannot_be_decoded_is_bad(tmp_path):
    files = [tmp_path / name for name in ("a.png", "b.png", "c.png")]
    grey = np.full([4, 6, 1], 7, np.uint8)
    files[0].write_bytes(tf.io.encode_png(grey).numpy())
    files[1].write_bytes(b"no image")
    block = ImageRows(files, (2, 3), channels=1).read(0, 3)  # the third is not there
    assert (block.x.shape, block.x.min(), block.x.max()) == ((1, 2, 3, 1), 7, 7)
    assert block.ids.tolist() == [str(files[0])]
    assert [bad.id for bad in block.bad] == [str(files[1]), str(files[2])]
