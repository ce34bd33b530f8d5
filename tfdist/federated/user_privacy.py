"""How does a model learn from clients without telling which of them took part, or what they have?

Each client's change of the weights is clipped to a norm C, all clients count alike, and Gaussian
noise is added to the sum once, by the server (McMahan et al. 2018, arXiv:1710.06963):

    theta + (sum of clipped changes + N(0, (sigma C)^2)) / (q N)

q N is the public expected number of clients, never the number that came. Each client is drawn with
the probability q by itself, from the system's random source. So the promise is for all the data of
a client, and holds for who sees the model after any round; not for the server, which sees the sum
before the noise, and without secure sums each change.
"""

from __future__ import annotations

import dataclasses
import math
import secrets
from collections.abc import Mapping, Sequence

import numpy as np

from tfdist.privacy.accountant import Mechanism, epsilon, noise_multiplier


@dataclasses.dataclass(frozen=True, kw_only=True)
class UserPrivacy:
    """What is asked of training that is private for each client as a whole.

    Attributes:
        clip: C, the norm that no client's change of all weights together exceeds.
        delta: Of the promise, far below 1 / (number of clients).
        noise_multiplier: sigma; this or `target_epsilon`.
        target_epsilon: Of the promise for all rounds, for which sigma is calculated.
    """

    clip: float
    delta: float
    noise_multiplier: float | None = None
    target_epsilon: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.clip < math.inf:
            raise ValueError(
                f"clip={self.clip!r} must be a number above 0, the norm of a client's change."
            )
        if (self.noise_multiplier is None) == (self.target_epsilon is None):
            raise ValueError(
                f"noise_multiplier={self.noise_multiplier!r} and target_epsilon="
                f"{self.target_epsilon!r} were given, and each gives the other. Give one of them."
            )

    def mechanism(self, *, fraction: float, rounds: int) -> Mechanism:
        """Returns what a round is for the accountant.

        Args:
            fraction: q.
            rounds: For how many rounds a `target_epsilon` is meant.
        """
        sigma = self.noise_multiplier
        if sigma is None:
            sigma = noise_multiplier(
                float(self.target_epsilon or 0), delta=self.delta, steps=rounds,
                sampling_probability=fraction,
            )
        return Mechanism(sigma, sampling_probability=fraction)


class Releasing:
    """The server's part: who takes part, the noise, and what was spent.

    Args:
        asked: What is asked.
        mechanism: What a round is.
        population: N, all clients that there are.
    """

    def __init__(self, asked: UserPrivacy, mechanism: Mechanism, *, population: int) -> None:
        self._asked, self.mechanism = asked, mechanism
        self.expected = mechanism.sampling_probability * population
        self._source = secrets.SystemRandom()
        # No seed of it is kept, so no checkpoint lets its reader take the noise off.
        self._noise = np.random.Generator(np.random.PCG64DXSM(secrets.randbits(128)))

    def drawn(self, names: Sequence[str]) -> list[str]:
        """Returns who is asked: each by itself, so perhaps nobody."""
        probability = self.mechanism.sampling_probability
        return [name for name in names if self._source.random() < probability]

    def mean(self, changes: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Returns the noisy mean of a sum of clipped changes, by name."""
        scale = self.mechanism.noise_multiplier * self._asked.clip
        return {
            name: (total + self._noise.normal(0.0, scale, total.shape)) / self.expected
            for name, total in changes.items()
        }

    def spent(self, rounds: int) -> float:
        """Returns the epsilon of this many rounds."""
        return epsilon([(self.mechanism, rounds)], delta=self._asked.delta)


def clipped(change: Mapping[str, np.ndarray], norm: float) -> dict[str, np.ndarray]:
    """Returns a client's change with at most this norm; zeros where it is not finite.

    A client whose training has broken down must not end the run, which would tell that it was
    there.

    Args:
        change: float64, by name.
        norm: C.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        # By NumPy, which keeps NaN: Python's max(1.0, nan) is 1.0.
        each = [np.max(np.abs(v), initial=0.0) for v in change.values()]
        largest = float(np.max(each, initial=0.0))
        if not math.isfinite(largest):
            return {name: np.zeros_like(value) for name, value in change.items()}
    if largest == 0.0:
        return dict(change)
    # Scaled first, so that squares neither overflow nor vanish.
    length = math.sqrt(sum(float(np.sum(np.square(v / largest))) for v in change.values()))
    factor = min(1.0, norm / largest / length)
    return {name: value * factor for name, value in change.items()}
