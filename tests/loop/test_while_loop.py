"""Does a loop run as many steps as it is asked for, and stop where it has to?"""

from __future__ import annotations

import pytest

from tfdist.loop import while_loop


class Steps:
    """A loop over so many batches, which writes down how many steps each call was asked for."""

    def __init__(self, batches: int, *, stops_after: int | None = None) -> None:
        self.left, self.stops_after = batches, stops_after
        self.asked: list[int] = []
        self.done = 0

    def __call__(self, iterator: object, num_steps: int) -> int:
        self.asked.append(num_steps)
        ran = min(num_steps, self.left)
        if self.stops_after is not None and num_steps > 1:
            ran = min(ran, self.stops_after - self.done)
        self.left, self.done = self.left - ran, self.done + ran
        return ran

    def goes_on(self) -> bool:
        return self.stops_after is None or self.done < self.stops_after


@pytest.mark.parametrize(
    ("is_needed", "batches", "wanted", "asked", "ran"),
    [
        (False, 9, 5, [1, 4], 5),  # the first step is traced by itself
        (True, 9, 5, [1, 1, 1, 1, 1], 5),
        (False, 3, 5, [1, 4], 3),
        (True, 3, 5, [1, 1, 1, 1], 3),
        (True, 0, 5, [1], 0),
        (True, 9, 1, [1], 1),
        (True, 9, 0, [], 0),
    ],
)
def test_steps_are_split_where_needed(is_needed, batches, wanted, asked, ran):
    steps = Steps(batches)
    loop = while_loop.split_where(steps, lambda: is_needed)
    assert loop(None, wanted) == ran
    assert steps.asked == asked


def test_the_first_step_is_split_off_once():
    steps = Steps(20)
    loop = while_loop.split_where(steps, lambda: False)
    assert (loop(None, 4), loop(None, 4)) == (4, 4)
    assert steps.asked == [1, 3, 4]


@pytest.mark.parametrize("is_needed", [False, True])
def test_a_split_loop_stops_where_the_whole_one_would(is_needed):
    steps = Steps(9, stops_after=3)
    loop = while_loop.split_where(steps, lambda: is_needed, goes_on=steps.goes_on)
    assert loop(None, 7) == 3


def test_whether_to_go_on_is_not_asked_after_the_last_step():
    steps = Steps(9)
    loop = while_loop.split_where(steps, lambda: False, goes_on=lambda: pytest.fail("asked"))
    assert loop(None, 1) == 1
