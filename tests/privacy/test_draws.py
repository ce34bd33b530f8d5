"""Are examples drawn independently, and is the noise Gaussian, of the stated size, and never twice?

Seeds are fixed, so nothing here fails by chance; each test was seen to fail for the fault it names.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tfdist.privacy.draws import Draws

_ALPHA = 1e-6
_SIZE = 400_000


class _Alone:
    """The only worker."""

    def from_chief(self, payload: bytes) -> bytes:
        return payload


def _draws(seed: int | None = 0, scale: float = 1.0) -> Draws:
    draws = Draws()
    draws.begin(_Alone(), seed=seed, scale=scale)
    return draws


def test_noise_has_the_stated_variance():
    noise = _draws(scale=0.7).noise(3, _SIZE)

    def p(scale: float) -> float:
        return 2 * min(stats.chi2.cdf(np.sum(noise**2) / scale**2, _SIZE),
                       stats.chi2.sf(np.sum(noise**2) / scale**2, _SIZE))

    assert p(0.7) > _ALPHA
    assert p(0.7 * 1.01) < _ALPHA  # one per cent off would show
    assert stats.kstest(noise / 0.7, "norm").pvalue > _ALPHA


def test_noise_of_a_step_is_the_same_whoever_draws_it():
    noise = _draws(3).noise(5, _SIZE)  # several pieces, by several threads
    np.testing.assert_array_equal(_draws(3).noise(5, _SIZE), noise)
    assert len(np.unique(noise)) == _SIZE  # no piece or block is drawn twice
    np.testing.assert_array_equal(_draws(3).noise(5, 1000), noise[:1000])


def test_noise_is_independent_between_steps_and_within_one():
    draws = _draws()
    first, second = draws.noise(0, _SIZE), draws.noise(1, _SIZE)
    for one, other in (
        (first, second), (first[: _SIZE // 2], first[_SIZE // 2 :]), (first[1:], first[:-1])
    ):
        correlation = np.corrcoef(one, other)[0, 1]
        assert abs(correlation) * np.sqrt(len(one)) < stats.norm.isf(_ALPHA)
    assert not set(first[:1000]) & set(second)


def test_noise_has_tails():
    # Where they are cut at 5.68 standard deviations, as in Box-Muller with 1e-7, delta is lost.
    assert np.abs(_draws(126).noise(0, 2 * 10**6)).max() > 5.7


def test_each_example_is_drawn_with_the_probability_independently():
    draws, population, q, steps = _draws(), 50, 0.2, 4000
    samples = [draws.sample(k, population=population, probability=q, cap=50) for k in range(steps)]
    drawn = np.zeros((steps, population))
    for step, sample in enumerate(samples):
        assert len(set(sample.tolist())) == len(sample)
        drawn[step, sample] = 1
    counts = drawn.sum(0)
    pearson = np.sum((counts - steps * q) ** 2) / (steps * q * (1 - q))
    assert _ALPHA < stats.chi2.sf(pearson, population) < 1 - _ALPHA
    sizes = drawn.sum(1)  # of batches of one size the variance would be 0
    dispersion = np.sum((sizes - population * q) ** 2) / (population * q * (1 - q))
    assert _ALPHA < stats.chi2.sf(dispersion, steps) < 1 - _ALPHA
    pairs = np.corrcoef(drawn.T)[np.triu_indices(population, 1)]
    assert np.abs(pairs).max() * np.sqrt(steps) < stats.norm.isf(_ALPHA)
    between = np.sum((drawn[1:] - q) * (drawn[:-1] - q)) / (q * (1 - q))
    assert abs(between) / np.sqrt(drawn[1:].size) < stats.norm.isf(_ALPHA)


def test_a_larger_draw_is_cut_to_any_of_its_parts():
    draws, cap = _draws(), 12
    samples = [draws.sample(k, population=50, probability=0.2, cap=cap) for k in range(4000)]
    sizes = np.array([len(sample) for sample in samples])
    assert sizes.max() == cap
    share = stats.binom.sf(cap - 1, 50, 0.2)
    assert abs((sizes == cap).mean() - share) < 5 * np.sqrt(share / 4000)
    counts = np.bincount(np.concatenate(samples), minlength=50)
    assert stats.chisquare(counts).pvalue > _ALPHA


def test_a_secret_is_the_systems_and_another_one_each_time():
    assert not np.array_equal(_draws(None).noise(0, 5), _draws(None).noise(0, 5))
    np.testing.assert_array_equal(_draws(3).noise(0, 5), _draws(3).noise(0, 5))


def test_nothing_is_drawn_without_a_secret():
    draws = _draws()
    draws.end()
    with pytest.raises(RuntimeError, match="outside of the fit that has its secret"):
        draws.noise(0, 1)


def test_steps_count_once_however_often_they_are_drawn():
    draws = _draws()
    for step in (0, 1, 1, 0, 2):
        draws.noise(step, 1)
    assert draws.steps == 3
