"""What is a client asked to do in a round?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task:
    """How a client trains in a round.

    Attributes:
        round_number: From 0.
        seed: Of the run.
        local_epochs: Passes over the client's data, from 1.
        batch_size: Examples of a local step; datasets have batches of their own.
        shuffle: Whether arrays are shuffled anew in each pass.
        proximal: mu of FedProx; 0 for none.
    """

    round_number: int
    seed: int
    local_epochs: int = 1
    batch_size: int = 32
    shuffle: bool = True
    proximal: float = 0.0

    def __post_init__(self) -> None:
        for name in ("local_epochs", "batch_size"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ValueError(f"{name}={value!r} must be a whole number from 1.")
        if type(self.seed) is not int or not 0 <= self.seed < 2**63:
            raise ValueError(f"seed={self.seed!r} must be a whole number from 0.")
        if not isinstance(self.proximal, (int, float)) or not 0 <= self.proximal < float("inf"):
            raise ValueError(
                f"proximal={self.proximal!r} must be a number from 0, the mu of FedProx."
            )

    def told(self) -> dict[str, Any]:
        """Returns it as plain values."""
        return dataclasses.asdict(self)

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> Task:
        """Reads what `told` returned.

        Raises:
            ValueError: It is no task.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not isinstance(told, Mapping) or set(told) != names:
            raise ValueError(
                f"A task has {sorted(told)}, and {sorted(names)} are expected. Let the server and "
                "its clients have the same version of tfdist."
            )
        return cls(**told)
