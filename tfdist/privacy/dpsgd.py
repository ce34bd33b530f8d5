"""What is asked of private training?  `fit(..., privacy=DPSGD(...))`.

DP-SGD (Abadi et al. 2016, arXiv:1607.00133): each step draws every example by itself with one
probability, clips the gradient of each to a norm, adds Gaussian noise to the sum, and divides by
the number of examples that are expected. The rest of an update is Keras's optimizer, unchanged.
"""

from __future__ import annotations

import dataclasses
import importlib
import math
from typing import Any

from tfdist.privacy import accountant
from tfdist.privacy.accountant import Mechanism

# A step is cut with this part of delta as its probability, which raises epsilon by some 1 %.
_CUT_OF_DELTA = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class DPSGD:
    """How `fit` trains with differential privacy for each example.

    Args:
        l2_norm_clip: The most that the gradient of one example's loss counts, as the L2 norm over
            all trainable weights.
        noise_multiplier: Standard deviation of the noise on the sum of these gradients, in
            clipping norms. 0 adds none, and promises nothing.
        target_epsilon: Instead of the noise multiplier, the epsilon of the whole `fit`, with what
            the model has spent before: the least noise for it is looked for.
        delta: Probability with which the promise need not hold; less than one by the number of
            examples.
        expected_batch_size: Examples that a step draws in the mean, over all replicas of all
            workers; the sum of gradients is divided by it.
        batch_cap: Most examples of a step; of a larger draw, a random part is taken, which the
            accountant knows of. By default so many that it happens with a probability of half of
            delta, which raises epsilon by some 1 %.
        physical_batch_size: Most examples that are computed at once, over all replicas of all
            workers, where the memory does not hold a whole step. The step stays one: its clipped
            gradients add up piece by piece, it gets its noise once, and the accountant counts it
            once. By default a step is computed as a whole.
        seed: For tests alone: draws everything from this seed, which makes the noise known.

    Raises:
        ValueError: An argument is out of its range, or not one of `noise_multiplier` and
            `target_epsilon` is given.
    """

    l2_norm_clip: float
    delta: float
    expected_batch_size: int
    noise_multiplier: float | None = None
    target_epsilon: float | None = None
    batch_cap: int | None = None
    physical_batch_size: int | None = None
    seed: int | None = None

    def __post_init__(self) -> None:
        if not (_is_number(self.l2_norm_clip) and self.l2_norm_clip > 0):
            raise ValueError(
                f"l2_norm_clip={self.l2_norm_clip!r} is the most that one example's gradient "
                "counts. Give a finite number above 0, such as 1.0."
            )
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError(
                f"noise_multiplier={self.noise_multiplier!r} and target_epsilon="
                f"{self.target_epsilon!r} follow from each other. Give one of the two."
            )
        if self.noise_multiplier is not None:
            Mechanism(self.noise_multiplier)
        if not 0 < self.delta < 1:
            raise ValueError(
                f"delta={self.delta!r} is the probability with which the promise need not hold. "
                "Give a number above 0 and below one by the number of examples, such as 1e-5."
            )
        for name in ("expected_batch_size", "batch_cap", "physical_batch_size"):
            size = getattr(self, name)
            if size is not None and (type(size) is not int or size < 1):
                raise ValueError(f"{name}={size!r} counts examples. Give a whole number from 1.")
        if self.batch_cap is not None and self.batch_cap < self.expected_batch_size:
            raise ValueError(
                f"batch_cap={self.batch_cap} cuts most draws of expected_batch_size="
                f"{self.expected_batch_size} examples. Give a larger cap, or leave it out."
            )

    def refuse_data(self, population: int) -> None:
        """Raises a ValueError where the data is too small for what is asked.

        Args:
            population: The number of all examples.
        """
        if self.expected_batch_size > population:
            raise ValueError(
                f"expected_batch_size={self.expected_batch_size} is more than the {population} "
                "examples of the data. Give a smaller one."
            )
        if self.delta >= 1 / population:
            raise ValueError(
                f"delta={self.delta} would allow to publish one of the {population} examples as "
                f"it is. Give a delta below {1 / population:.1g}, better far below."
            )

    def probability(self, population: int) -> float:
        """Returns the probability with which a step draws an example."""
        return self.expected_batch_size / population

    def cap(self, population: int) -> int:
        """Returns the most examples of a step."""
        if self.batch_cap is not None:
            return min(self.batch_cap, population)
        accountant.library()  # which brings SciPy
        binomial = importlib.import_module("scipy.stats").binom
        least = binomial.isf(self.delta * _CUT_OF_DELTA, population, self.probability(population))
        return min(int(least), population)

    def mechanism(
        self, population: int, *, steps: int, before: tuple[tuple[Mechanism, int], ...] = ()
    ) -> Mechanism:
        """Returns what each step gives away.

        Args:
            population: The number of all examples.
            steps: Those of the whole run, for which `target_epsilon` is to hold.
            before: What was spent before them.
        """
        sampling: dict[str, Any] = {
            "sampling_probability": self.probability(population), "cap": self.cap(population),
            "population": population,
        }  # fmt: skip
        noise = self.noise_multiplier
        if noise is None:
            noise = accountant.noise_multiplier(
                float(self.target_epsilon or 0), delta=self.delta, steps=steps, before=before,
                **sampling,
            )
        return Mechanism(noise, **sampling)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and math.isfinite(value)
