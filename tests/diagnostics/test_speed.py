"""Are ratios, quartiles and Amdahl's fit what they say?"""

from __future__ import annotations

import pytest

from tfdist.diagnostics import speed


class Clock:
    """A clock that work moves on."""

    def __init__(self) -> None:
        self.now = 0.0

    def work(self, secs: float):
        def done() -> None:
            self.now += secs

        return done


def test_a_ratio_is_their_time_over_ours():
    clock = Clock()
    ratio = speed.compare(
        "a", clock.work(2.0), clock.work(5.0), rounds=4, target=3.0, clock=lambda: clock.now
    )
    assert (ratio.median, ratio.low, ratio.high) == (2.5, 2.5, 2.5)
    assert (ratio.ours_secs, ratio.theirs_secs) == (2.0, 5.0)
    assert str(ratio) == "a: 2.50 (2.50 to 2.50, aim 3)"


def test_both_are_called_once_more_and_by_turns():
    calls = []
    speed.compare("a", lambda: calls.append("o"), lambda: calls.append("t"), rounds=3)
    assert "".join(calls) == "ot" + "ot" + "to" + "ot"


def test_no_rounds():
    with pytest.raises(ValueError, match="rounds=0 must be 1 or more"):
        speed.compare("a", list, list, rounds=0)


def test_a_cost_is_an_amount_with_its_quartiles():
    cost = speed.cost_of("import, s", [0.3, 0.1, 0.2], target=0.25)
    assert (cost.median, cost.low, cost.high) == pytest.approx((0.2, 0.15, 0.25))
    assert str(cost) == "import, s: 0.200 (0.150 to 0.250, aim 0.25 at most)"
    assert str(speed.cost_of("a", [1.0])) == "a: 1.000 (1.000 to 1.000)"


@pytest.mark.parametrize(
    ("values", "expected"),
    [([7.0], (7.0, 7.0, 7.0)), ([1.0, 3.0], (1.5, 2.0, 2.5)), ([4.0, 1.0, 3.0], (2.0, 3.0, 3.5))],
)
def test_quartiles(values, expected):
    assert speed.quartiles(values) == expected
