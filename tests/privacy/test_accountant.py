"""Is epsilon that of dp-accounting, of the closed form where there is one, and of the papers?"""

from __future__ import annotations

import math
import statistics
import subprocess
import sys

import pytest
from dp_accounting import dp_event, rdp

from tfdist.privacy import accountant
from tfdist.privacy.accountant import Mechanism

_NORMAL = statistics.NormalDist()


def _delta_of_gaussian(epsilon: float, noise: float) -> float:
    """The closed form of Balle and Wang 2018 (arXiv:1805.06530), theorem 8."""
    shift, slack = 1 / (2 * noise), epsilon * noise
    return _NORMAL.cdf(shift - slack) - math.exp(epsilon) * _NORMAL.cdf(-shift - slack)


@pytest.mark.parametrize(("noise", "steps"), [(1.0, 1), (2.0, 1), (5.0, 1), (10.0, 100)])
def test_gaussian_has_its_closed_form(noise, steps):
    epsilon = accountant.epsilon([(Mechanism(noise), steps)], delta=1e-5, grid=1e-4)
    # n sums with noise s tell as much as one with noise s / sqrt(n).
    exact = _delta_of_gaussian(epsilon, noise / math.sqrt(steps))
    assert 0.999e-5 < exact <= 1e-5  # a bound from above, and a close one


# Table "Select Parameters" of tensorflow/privacy/tutorials/README.md: 60,000 examples, 256 a step.
@pytest.mark.parametrize(
    ("noise", "epochs", "published"), [(1.3, 15, 1.19), (1.1, 60, 3.01), (0.7, 45, 7.10)]
)
def test_published_epsilons_come_from_the_conversion_of_2017(noise, epochs, published):
    steps, q = math.ceil(epochs * 60_000 / 256), 256 / 60_000
    orders = [1 + x / 10.0 for x in range(1, 100)] + list(range(12, 64))
    old = rdp.RdpAccountant(orders)
    one = dp_event.PoissonSampledDpEvent(q, dp_event.GaussianDpEvent(noise))
    old.compose(dp_event.SelfComposedDpEvent(one, steps))
    converted = min(
        value + math.log(1e5) / (order - 1)
        for order, value in zip(old._orders, old._rdp, strict=True)
    )
    assert round(converted, 2) == published
    ours = accountant.epsilon([(Mechanism(noise, q), steps)], delta=1e-5)
    assert 0.6 * published < ours < published  # the newer bound is closer


def test_steps_compose_however_they_are_counted():
    step = Mechanism(1.3, 250 / 60_000, cap=360, population=60_000)
    whole = accountant.epsilon([(step, 3600)], delta=1e-5)
    assert accountant.epsilon([(step, 1200)] * 3, delta=1e-5) == pytest.approx(whole, abs=2e-3)
    assert whole == pytest.approx(0.859, abs=2e-3)


@pytest.mark.parametrize(("cap", "expected"), [(256, 5.867), (304, 1.486), (352, 1.1225)])
def test_a_cap_near_the_expected_size_costs_privacy(cap, expected):
    step = Mechanism(1.1, 250 / 60_000, cap=cap, population=60_000)
    assert accountant.epsilon([(step, 3600)], delta=1e-5) == pytest.approx(expected, abs=1e-3)


def test_a_cap_above_all_examples_cuts_nothing():
    loose = Mechanism(1.1, 0.1, cap=200, population=100)
    assert accountant.epsilon([(loose, 10)], delta=1e-5) == accountant.epsilon(
        [(Mechanism(1.1, 0.1), 10)], delta=1e-5
    )


@pytest.mark.slow  # 3 s: only it looks for noise under a cap, as fit does
def test_noise_for_a_target_keeps_it_closely():
    target = 0.5
    setting = {"sampling_probability": 128 / 1437, "cap": 192, "population": 1437}
    noise = accountant.noise_multiplier(target, delta=1e-4, steps=600, **setting)
    spent = accountant.epsilon([(Mechanism(noise, **setting), 600)], delta=1e-4)
    assert 0.995 * target < spent <= target


def test_what_was_spent_before_counts_against_a_target():
    before = ((Mechanism(2.0), 1),)
    spent = accountant.epsilon(before, delta=1e-5)
    noise = accountant.noise_multiplier(2 * spent, delta=1e-5, steps=1, before=before)
    both = accountant.epsilon([*before, (Mechanism(noise), 1)], delta=1e-5)
    assert 0.995 * 2 * spent < both <= 2 * spent
    with pytest.raises(ValueError, match="is spent already"):
        accountant.noise_multiplier(spent, delta=1e-5, steps=1, before=before)


def test_no_noise_is_no_promise_and_no_steps_spend_nothing():
    assert accountant.epsilon([(Mechanism(0.0, 0.1), 1)], delta=1e-5) == math.inf
    assert accountant.epsilon([(Mechanism(0.0, 0.1), 0)], delta=1e-5) == 0.0


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: Mechanism(-1.0), "noise_multiplier=-1.0"),
        (lambda: Mechanism(1.0, 0.0), "sampling_probability=0.0"),
        (lambda: Mechanism(1.0, 0.1, cap=5), "cap=5 cuts samples of population=None"),
        (lambda: accountant.epsilon([], delta=0.0), "delta=0.0"),
        (lambda: accountant.noise_multiplier(0.0, delta=1e-5, steps=1), "target_epsilon=0.0"),
        (lambda: accountant.noise_multiplier(1.0, delta=1e-5, steps=0), "steps=0"),
    ],
)
def test_numbers_out_of_range_are_refused(call, told):
    with pytest.raises(ValueError, match=told.replace(".", r"\.")):
        call()


def test_missing_package_names_the_extra():
    code = """
import sys
sys.modules["dp_accounting"] = None
from tfdist import privacy
try:
    privacy.epsilon([(privacy.Mechanism(1.0), 1)], delta=1e-5)
except ImportError as error:
    print(error)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert "pip install 'tfdist[privacy]'" in done.stdout, done.stderr
