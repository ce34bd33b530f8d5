"""Are ratios, quartiles and Amdahl's fit what they say?"""

from __future__ import annotations

import pytest

from tfdist.diagnostics import scaling_laws, speed


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


@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_amdahl_finds_the_parts(noise):
    devices = [1, 2, 4, 8]
    secs = [(2 + 6 / n) * (1 + noise * (-1) ** n) for n in devices]
    fit = scaling_laws.amdahl(devices, secs)
    assert fit.serial_secs == pytest.approx(2 * (1 + noise), rel=3 * noise + 1e-9)
    assert fit.worst_error <= 2 * noise + 1e-9
    assert fit.secs(2) == pytest.approx(secs[1], rel=3 * noise + 1e-9)


def test_amdahl_keeps_both_parts_above_zero():
    slower = scaling_laws.amdahl([1, 2], [1.0, 2.0])
    assert (slower.serial_secs, slower.parallel_secs) == (1.5, 0.0)
    better = scaling_laws.amdahl([1, 2], [4.0, 1.0])  # more than twice as fast on two
    assert better.serial_secs == 0.0
    assert better.parallel_secs == pytest.approx(3.6)  # least squares through the origin


def test_most_devices():
    fit = scaling_laws.Amdahl(serial_secs=1.0, parallel_secs=99.0, worst_error=0.0)
    number = fit.most_devices(efficiency=0.8)
    assert fit.efficiency(number) >= 0.8 > fit.efficiency(number + 1)
    assert scaling_laws.Amdahl(1.0, 0.0, 0.0).most_devices() == 1


@pytest.mark.parametrize(("devices", "secs"), [([1], [1.0]), ([2, 2], [1.0, 1.0]), ([1, 2], [1.0])])
def test_amdahl_needs_two_numbers_of_devices(devices, secs):
    with pytest.raises(ValueError, match="Times on two numbers of devices are needed"):
        scaling_laws.amdahl(devices, secs)


def test_gustafson_finds_the_serial_share():
    assert scaling_laws.gustafson([1, 2, 4, 8], [n - 0.25 * (n - 1) for n in (1, 2, 4, 8)]) == 0.25
    assert scaling_laws.gustafson([1, 2], [1.0, 2.5]) == 0.0  # more than twice as fast on two
    assert scaling_laws.gustafson([1, 2], [1.0, 0.5]) == 1.0


@pytest.mark.parametrize(("devices", "speed_ups"), [([1], [1.0]), ([1, 2], [1.0])])
def test_gustafson_needs_more_than_one_device(devices, speed_ups):
    with pytest.raises(ValueError, match="Speed-ups on 1 and on more devices are needed"):
        scaling_laws.gustafson(devices, speed_ups)
