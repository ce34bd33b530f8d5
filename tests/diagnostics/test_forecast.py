"""Is the time on more workers what the ring's formula says, and is its error told?"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from tfdist.diagnostics.forecast import Forecast, Link, fit_link
from tfdist.training.time_split import Split

_ALONE = Split(input_secs=0.01, compute_secs=0.08, communication_secs=0.0, host_secs=0.01)
_LINK = Link(bytes_per_sec=1e9, latency_secs=1e-4)


def test_the_slowest_of_many_is_waited_for():
    """As drawn: the mean of the largest of n normal numbers."""
    draws = np.random.default_rng(0).normal(size=[20_000, 64])
    for workers in (2, 8, 64):
        found = Forecast(_ALONE, 0, Link(1e9), spread_secs=0.01)
        expected = 0.01 * draws[:, :workers].max(axis=1).mean()
        assert found.wait_secs(workers) == pytest.approx(expected, rel=0.05)
        assert found.secs(workers) == pytest.approx(0.1 + expected, rel=0.01)
    assert found.wait_secs(1) == 0.0


@pytest.mark.parametrize("is_strong", [False, True])
def test_what_is_lost_is_all_that_is_not_ideal(is_strong):
    found = Forecast(
        Split(0.01, 0.08, 0.004, 0.006), 10**8, Link(1e9, 1e-3), packs=3, is_strong=is_strong,
        spread_secs=0.01, cores=4,
    )
    for workers in (1, 2, 8, 1024):
        ideal = found.secs(1) / (workers if is_strong else 1)
        assert sum(found.lost(workers).values()) == pytest.approx(found.secs(workers) - ideal)


@pytest.mark.parametrize(
    ("change", "cause"),
    [
        ({"num_bytes": 10**9}, "bytes of gradients"),
        ({"link": Link(1e12, 1e-3)}, "latency of messages"),
        ({"spread_secs": 0.5}, "waiting for the slowest"),
        ({"cores": 2}, "cores that workers share"),
        ({"alone": Split(0.0, 0.01, 0.0, 0.1), "is_strong": True}, "what no number of workers"),
    ],
)
def test_what_limits_is_named(change, cause):
    plain = Forecast(_ALONE, 1000, Link(1e12))
    assert f"most of what is lost: {cause}" in dataclasses.replace(plain, **change).limit(64)


def test_workers_that_share_cores_wait_for_the_fullest():
    alone = Split(input_secs=0.0, compute_secs=0.4, communication_secs=0.0, host_secs=0.0)
    shared = Forecast(alone, 0, Link(1e9), cores=2)
    told = "3 workers share 2 cores, so this is rough; with a core for each it is 400.0 ms"
    assert shared.limit(3).startswith("3 workers: 800.0 ms a step"), "one core has two"
    assert told in shared.limit(3)
    assert told in " ".join(shared.advice(3))
    for one, workers in ((shared, 2), (dataclasses.replace(shared, cores=None), 3)):
        assert "share" not in one.limit(workers)
        assert "share" not in " ".join(one.advice(workers))


def test_ring_all_reduce():
    assert _LINK.all_reduce_secs(1, 10**9) == 0.0
    assert _LINK.all_reduce_secs(2, 10**9) == pytest.approx(1.0 + 2e-4)
    assert _LINK.all_reduce_secs(4, 10**9, packs=10) == pytest.approx(1.5 + 6e-3)


def test_bucket_keeps_latency_small():
    size = _LINK.bucket_bytes(8, latency_share=0.1)
    latency = 2 * 7 * _LINK.latency_secs
    assert latency <= 0.1 * _LINK.all_reduce_secs(8, size)
    assert size % 2**20 == 0
    assert latency > 0.1 * _LINK.all_reduce_secs(8, size - 2**20)


@pytest.mark.parametrize("latency", [0.0, 3e-4])
def test_fit_link_finds_the_link(latency):
    link = Link(2e9, latency)
    points = [(n, b, link.all_reduce_secs(n, b)) for n in (1, 2, 4) for b in (10**6, 10**8)]
    found = fit_link(points)
    assert found.bytes_per_sec == pytest.approx(2e9)
    assert found.latency_secs == pytest.approx(latency, abs=1e-9)


def test_fit_link_of_one_size_has_no_latency():
    found = fit_link([(2, 10**6, 0.001)])
    assert (found.bytes_per_sec, found.latency_secs) == (pytest.approx(1e9), 0.0)


def test_fit_link_never_goes_below_zero():
    assert fit_link([(2, 10**6, 0.0001), (2, 10**8, 0.1)]).latency_secs == 0.0


@pytest.mark.parametrize("points", [[], [(1, 100, 1.0)], [(2, 100, 0.0)]])
def test_fit_link_needs_several_workers(points):
    with pytest.raises(ValueError, match="hold no all-reduce over several workers"):
        fit_link(points)


@pytest.mark.parametrize(("bandwidth", "latency"), [(0.0, 0.0), (1.0, -1.0)])
def test_no_link(bandwidth, latency):
    with pytest.raises(ValueError, match="is no link"):
        Link(bandwidth, latency)


def test_weak_scaling():
    found = Forecast(_ALONE, num_bytes=10**8, link=_LINK)
    assert found.secs(1) == pytest.approx(0.1)
    assert found.secs(2) == pytest.approx(0.1 + 0.1 + 2e-4)
    assert found.speed_up(2) == pytest.approx(2 * 0.1 / 0.2002)
    assert found.efficiency(2) == pytest.approx(0.1 / 0.2002)


def test_strong_scaling():
    found = Forecast(_ALONE, num_bytes=10**8, link=_LINK, is_strong=True)
    assert found.secs(2) == pytest.approx(0.045 + 0.01 + 0.1 + 2e-4)
    assert found.speed_up(2) == pytest.approx(0.1 / 0.1552)


def test_most_workers():
    found = Forecast(_ALONE, num_bytes=10**7, link=_LINK)
    most = found.most_workers(efficiency=0.8)
    assert 1 < most < 1024
    assert found.efficiency(most) >= 0.8 > found.efficiency(most + 1)
    assert Forecast(_ALONE, num_bytes=0, link=Link(1e9)).most_workers() == 1024


def test_errors_at_measured_points():
    found = Forecast(_ALONE, num_bytes=10**8, link=_LINK, measured={2: 0.2002 / 1.25, 1: 0.1})
    assert found.errors == pytest.approx({1: 0.0, 2: 0.25})
    assert found.worst_error == pytest.approx(0.25)
    assert Forecast(_ALONE, num_bytes=1, link=_LINK).worst_error is None


def test_advice_says_how_sure_it_is():
    lines = Forecast(_ALONE, num_bytes=10**8, link=_LINK, measured={1: 0.1}).advice(2)
    assert "Summing gradients takes 50 %" in lines[0]
    assert "at least 80 % up to 1; the prediction is wrong by 0 % at most of the 1" in lines[-1]
    unsure = Forecast(_ALONE, num_bytes=0, link=_LINK).advice(2)
    assert "not checked on any" in unsure[-1]


def test_no_workers():
    with pytest.raises(ValueError, match="workers=0 must be 1 or more"):
        Forecast(_ALONE, num_bytes=1, link=_LINK).secs(0)
