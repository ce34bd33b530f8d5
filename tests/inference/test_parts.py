"""Does a folder know which of its parts are done, and of what they are?"""

from __future__ import annotations

import contextlib

import pytest

from tfdist.inference.parts import Parts
from tfdist.inference.rows import Bad


@pytest.fixture
def parts(tmp_path):
    made = Parts(tmp_path / "to", rows=25, part_rows=10, suffix=".parquet")
    made.begin({"model": "a", "source": [1, (2, 3)]})
    return made


def test_parts_hold_all_rows(parts):
    assert [parts.bounds(number) for number in range(len(parts))] == [(0, 10), (10, 20), (20, 25)]


def test_a_part_is_done_when_it_is_whole(parts):
    with contextlib.suppress(KeyboardInterrupt), parts.writing(0) as path:
        path.write_text("half of it")
        raise KeyboardInterrupt
    assert not parts.is_done(0)
    assert parts.found().rows == 0
    with parts.writing(0) as path:
        path.write_text("whole")
    assert parts.is_done(0)
    assert (parts.folder / "part-000000.parquet").read_text() == "whole"
    assert parts.found().rows == 10


def test_a_folder_is_complete_with_its_last_part(parts):
    (parts.folder / "_writing-killed").mkdir()
    for number in range(3):
        assert not (parts.folder / "_SUCCESS").exists()
        with parts.writing(number) as path:
            if number != 1:  # a part of which no row could be read
                path.write_text("")
        parts.tell_bad(number, [Bad("x", "why")] * (10 if number == 1 else 0))
        found = parts.found()
    assert (found.rows, found.bad_rows, found.is_complete) == (25, 10, True)
    assert (parts.folder / "_SUCCESS").exists()
    assert not list(parts.folder.glob("_writing*"))


def test_the_same_predictions_go_on(parts):
    parts.begin({"model": "a", "source": [1, (2, 3)]})


def test_other_predictions_do_not(parts):
    with pytest.raises(ValueError, match=r'of another model: "a", not "b"\. Give a new folder'):
        parts.begin({"model": "b", "source": [1, (2, 3)]})


def test_a_folder_of_something_else_stays_as_it_is(tmp_path):
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(ValueError, match=r"holds 'mine\.txt' and no predictions"):
        Parts(tmp_path, rows=1, part_rows=1, suffix=".npz").begin({})
