"""tests of tfdist/diagnostics/scaling_laws.py"""

from __future__ import annotations

import pytest

from tfdist.diagnostics import scaling_laws


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
