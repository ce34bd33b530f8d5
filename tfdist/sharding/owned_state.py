"""How is a state that one replica holds read and written by all, outside of a step?

Every worker has to call it, some bytes at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from tfdist.communication.workers import Workers
from tfdist.sharding.sliced_state import HeldState


class OwnedState(HeldState):
    """One state of one weight, which the weight's owner holds.

    Args:
        state: Keras's variable, which is empty where another worker has the owner.
        shape: The shape of the whole.
        owner: The replica that holds it.
        workers: All workers.
    """

    def __init__(
        self, state: Any, shape: tuple[int, ...], *, owner: int, workers: Workers
    ) -> None:
        super().__init__(state.path, shape, [state.value], workers)
        self._owner = owner

    @property
    def owner(self) -> int:
        """The replica that holds it."""
        return self._owner

    def numpy(self) -> np.ndarray:
        """Returns the state; every worker has to call it."""
        own = self.parts[0].numpy()
        if not self._workers.has_others:
            return own
        dtype, size = own.dtype, int(np.prod(self.shape))
        rank = self._owner // self._workers.share.local_replicas
        payload = own.tobytes() if self._is_here() else b""
        found = self._workers.from_worker(rank, payload, size=size * dtype.itemsize)
        return np.frombuffer(found, dtype).reshape(self.shape)

    def assign(self, value: Any) -> None:
        """Gives the owner a value."""
        if self._is_here():
            self.parts[0].assign(value)

    def held_by(self, replica: int) -> int:
        """Returns how many of its numbers a replica holds."""
        return int(np.prod(self.shape)) if replica == self._owner else 0

    def _is_here(self) -> bool:
        return self._owner in self._workers.share.replicas
