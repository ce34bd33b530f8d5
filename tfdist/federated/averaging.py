"""What is the mean of the clients' changes?  Weighted by examples, added in the order of names.

Of client k with n_k examples that has trained from theta to theta_k, the new weights are

    theta + sum_k (n_k / n) (theta_k - theta) = sum_k (n_k / n) theta_k,   n = sum_k n_k

(McMahan et al. 2017, arXiv:1602.05629, algorithm 1), in float64, whatever type the weights have.
The sum goes in the order in which it is given, which is that of the names. So neither the order of
the clients nor the number of workers changes a bit of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np


def change_of(
    values: Mapping[str, np.ndarray], start: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Returns by how much weights have changed, float64, by name."""
    return {
        name: value.astype(np.float64) - start[name].astype(np.float64)
        for name, value in values.items()
    }


def flat(change: Mapping[str, np.ndarray]) -> np.ndarray:
    """Returns all numbers of a change, in the order of the names."""
    return np.concatenate([np.zeros(0), *(change[name].ravel() for name in sorted(change))])


def unflat(numbers: np.ndarray, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Returns numbers as `flat` was given them."""
    found, start = {}, 0
    for name in sorted(shapes):
        size = math.prod(shapes[name])
        found[name] = numbers[start : start + size].reshape(shapes[name])
        start += size
    return found


class Sum:
    """A weighted sum of changes.

    Args:
        start: The weights that the clients have trained from, by name.

    Attributes:
        total: The weights of all changes together: examples, as a rule.
    """

    def __init__(self, start: Mapping[str, np.ndarray]) -> None:
        self._start = {name: value.astype(np.float64) for name, value in start.items()}
        self._sum = {name: np.zeros(value.shape) for name, value in start.items()}
        self.total = 0.0

    def add(
        self, client: str, values: Mapping[str, np.ndarray], weight: float, *,
        is_change: bool = False,
    ) -> None:
        """Adds what a client has trained to.

        Args:
            client: The client's name.
            values: Its weights, by name.
            weight: How much they count, from 0.
            is_change: Whether the values are changes of the weights instead.

        Raises:
            ValueError: They have other names or shapes than the start.
            RuntimeError: They are not finite.
        """
        found = {name: value.shape for name, value in values.items()}
        wanted = {name: value.shape for name, value in self._start.items()}
        if found != wanted:
            name = next(n for n in [*wanted, *found] if wanted.get(n) != found.get(n))
            raise ValueError(
                f"The client {client!r} has sent {name!r} with the shape {found.get(name)}, where "
                f"{wanted.get(name)} is expected. Let all clients build the model of the server."
            )
        changes = dict(values) if is_change else change_of(values, self._start)
        for name, change in changes.items():
            if not np.isfinite(change).all():
                raise RuntimeError(
                    f"The client {client!r} has sent weights that are not finite, in {name!r}. "
                    "Look at its data, or lower its learning rate."
                )
        for name, change in changes.items():
            self._sum[name] += weight * change
        self.total += weight

    def changes(self) -> dict[str, np.ndarray]:
        """Returns the sum of the weighted changes, float64, by name."""
        return self._sum
