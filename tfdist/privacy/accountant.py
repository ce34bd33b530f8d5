"""How much privacy has been spent, and how much noise does a promise need?

The numbers are those of the library dp-accounting (extra `[privacy]`); nothing is trained.

    >>> from tfdist.privacy import accountant
    >>> step = accountant.Mechanism(1.1, sampling_probability=256 / 60_000)
    >>> round(accountant.epsilon([(step, 2340)], delta=1e-5), 2)
    0.92

Two data sets are neighbours if one example of one is empty in the other (dp-accounting's
REPLACE_SPECIAL): the number of examples is public. For sums of clipped contributions under Poisson
sampling this gives the same numbers as adding or removing one example. An example is whatever
contributes at most the clipping norm: a row of the data, or a client with all of its rows.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import math
from collections.abc import Iterable
from typing import Any

#: Step of the grid that privacy losses are rounded up to. A finer one lowers epsilon by some per
#: cent at most where epsilon is above 0.5, and takes ten times as long.
GRID = 1e-3
_LITTLE_NOISE = 0.5  # with less, losses grow with its inverse square, and the grid with them
_LEAST_NOISE, _TOLERANCE = 0.2, 1e-3  # of a noise multiplier that is looked for


@dataclasses.dataclass(frozen=True)
class Mechanism:
    """One sum of clipped contributions of a random sample, with Gaussian noise: what a step gives.

    Attributes:
        noise_multiplier: Standard deviation of the noise, in clipping norms.
        sampling_probability: With which each example is in the sample, independently of all others
            (Poisson sampling). 1 where all examples are in each sum.
        cap: Most examples of a sample; of a larger one a uniformly drawn part is taken. None
            where nothing is cut.
        population: Number of all examples, which a cap needs.

    Raises:
        ValueError: A number is out of its range.
    """

    noise_multiplier: float
    sampling_probability: float = 1.0
    cap: int | None = None
    population: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier >= 0):
            raise ValueError(
                f"noise_multiplier={self.noise_multiplier!r} is the standard deviation of the "
                "noise in clipping norms. Give a number from 0, such as 1.1."
            )
        if not 0 < self.sampling_probability <= 1:
            raise ValueError(
                f"sampling_probability={self.sampling_probability!r} is the probability of an "
                "example to be in a step. Give a number above 0 and up to 1."
            )
        if self.cap is not None and (self.population is None or self.cap < 1):
            raise ValueError(
                f"cap={self.cap!r} cuts samples of population={self.population!r} examples, and "
                "both have to be known. Give a cap of at least 1 and the population."
            )


def epsilon(spent: Iterable[tuple[Mechanism, int]], *, delta: float, grid: float = GRID) -> float:
    """Returns the epsilon of the promise (epsilon, delta) that a run of steps keeps.

    Args:
        spent: Each mechanism, and how many steps it was run for; they compose.
        delta: Probability with which the promise need not hold; above 0 and below 1.
        grid: Step of the grid of privacy losses where noise multipliers are 0.5 or more; a finer
            one gives a smaller, closer bound.

    Returns:
        An upper bound by privacy loss distributions; infinity where there is no noise, 0 where
        nothing was run.

    Raises:
        ImportError: dp-accounting is not installed.
        ValueError: An argument is invalid.
    """
    _require_delta(delta)
    runs = [(mechanism, int(steps)) for mechanism, steps in spent if steps]
    if not runs:
        return 0.0
    if any(mechanism.noise_multiplier == 0 for mechanism, _ in runs):
        return math.inf
    least = min(mechanism.noise_multiplier for mechanism, _ in runs)
    accountant = _new_accountant(grid * max(1, (_LITTLE_NOISE / least) ** 2))
    for mechanism, steps in runs:
        accountant.compose(_event(mechanism, steps))
    return float(accountant.get_epsilon(delta))


@functools.lru_cache(maxsize=64)
def noise_multiplier(
    target_epsilon: float,
    *,
    delta: float,
    steps: int,
    sampling_probability: float = 1.0,
    cap: int | None = None,
    population: int | None = None,
    before: tuple[tuple[Mechanism, int], ...] = (),
) -> float:
    """Returns the least noise multiplier, up to 0.001, with which all steps keep a promise.

    Args:
        target_epsilon: The epsilon of the promise, above 0.
        delta: Its delta.
        steps: How often the mechanism is run.
        sampling_probability: As in `Mechanism`.
        cap: As in `Mechanism`.
        population: As in `Mechanism`.
        before: What was spent before, as in `epsilon`; the promise is for both together.

    Returns:
        A noise multiplier for which `epsilon` is at most `target_epsilon`.

    Raises:
        ImportError: dp-accounting is not installed.
        ValueError: An argument is invalid, or no noise is enough.

    >>> noise_multiplier(3.0, delta=1e-5, steps=2340, sampling_probability=256 / 60_000) < 0.7
    True
    """
    _require_delta(delta)
    if not (math.isfinite(target_epsilon) and target_epsilon > 0):
        raise ValueError(
            f"target_epsilon={target_epsilon!r} is no promise. Give a finite number above 0, such "
            "as 3.0."
        )
    if steps < 1:
        raise ValueError(f"steps={steps!r} leaves nothing to protect. Give a whole number from 1.")
    dp = library()

    def event(noise: float) -> Any:
        own = _event(Mechanism(noise, sampling_probability, cap, population), steps)
        return dp.ComposedDpEvent([*(_event(*spent) for spent in before), own])

    if before and epsilon(before, delta=delta) >= target_epsilon:
        raise ValueError(
            f"target_epsilon={target_epsilon} is spent already: epsilon is "
            f"{epsilon(before, delta=delta):.3g} at delta={delta}. Give a larger target_epsilon, "
            "or begin with a new model."
        )
    try:
        found = dp.calibrate_dp_mechanism(
            lambda: _new_accountant(GRID), event, target_epsilon, delta,
            bracket_interval=dp.LowerEndpointAndGuess(_LEAST_NOISE, 1.0), tol=_TOLERANCE / 2,
        )
    except dp.NoBracketIntervalFoundError as error:
        raise ValueError(
            f"target_epsilon={target_epsilon} with delta={delta} over {steps} steps cannot be kept "
            "by any noise. Give a larger target_epsilon or delta, or fewer steps."
        ) from error
    return math.ceil(found / _TOLERANCE * 2) * _TOLERANCE / 2


def _require_delta(delta: float) -> None:
    if not 0 < delta < 1:
        raise ValueError(
            f"delta={delta!r} is the probability with which the promise need not hold. Give a "
            "number above 0 and far below 1 / (number of examples), such as 1e-5."
        )


def _event(mechanism: Mechanism, steps: int) -> Any:
    dp = library()
    q, noise = mechanism.sampling_probability, mechanism.noise_multiplier
    cap, population = mechanism.cap, mechanism.population
    one = dp.GaussianDpEvent(noise)
    if cap is not None and population is not None and cap < population:
        one = dp.TruncatedSubsampledGaussianDpEvent(
            dataset_size=population, sampling_probability=q, truncated_batch_size=cap,
            noise_multiplier=noise,
        )
    elif q < 1:
        one = dp.PoissonSampledDpEvent(q, one)
    return dp.SelfComposedDpEvent(one, steps)


def _new_accountant(grid: float) -> Any:
    dp = library()
    return importlib.import_module("dp_accounting.pld").PLDAccountant(
        neighboring_relation=dp.NeighboringRelation.REPLACE_SPECIAL,
        value_discretization_interval=grid,
    )


def library() -> Any:
    """Returns dp-accounting, which is an extra; raises an ImportError that names it."""
    try:
        return importlib.import_module("dp_accounting")
    except ModuleNotFoundError as error:
        raise ImportError(
            "Accounting for privacy needs the package 'dp-accounting', which is not installed. "
            "Install it with pip install 'tfdist[privacy]'.",
            name="dp_accounting",
        ) from error
