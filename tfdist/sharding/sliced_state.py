"""How is a state that the replicas hold in slices read and written whole, outside of a step?

Every worker has to call it: what it does not hold comes from the others, some at a time, so that no
worker needs the memory for more than one state beside its slices.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.communication import slices
from tfdist.communication.workers import Workers

SLICES = "slices"  # how `variables.Entry.per_replica` calls such a state
_BYTES_AT_A_TIME = 2**24


class SlicedState:
    """One state of one weight, as whoever saves and restores it sees it.

    Args:
        path: The path of the state, as it is without slices.
        weight: The weight, whose shape it has.
        parts: This worker's slices, one a local replica.
        workers: All workers.

    Attributes:
        path: As given.
        parts: As given.
        shape: The shape of the whole.
        dtype: The name of its type.
    """

    def __init__(self, path: str, weight: Any, parts: Sequence[tf.Variable], workers: Workers):
        self.path, self.parts, self._workers = path, list(parts), workers
        self.shape, self.dtype = weight.shape, self.parts[0].dtype.name
        self.trainable = False

    def numpy(self) -> np.ndarray:
        """Returns the whole; every worker has to call it."""
        own = np.stack([part.numpy() for part in self.parts])
        rows = np.frombuffer(own.tobytes(), np.uint8).reshape(len(own), -1)
        pieces = [
            self._workers.rows(rows[:, start : start + _BYTES_AT_A_TIME])
            for start in range(0, rows.shape[1], _BYTES_AT_A_TIME)
        ]
        # A row a replica; a piece has a block of each.
        every = np.ascontiguousarray(np.concatenate(pieces, axis=1)).view(own.dtype)
        ends = np.cumsum(self._lengths())[:-1]
        flat = np.concatenate([piece.reshape(-1) for piece in np.split(every, ends, axis=1)])
        return flat[: self.shape.num_elements()].reshape(self.shape)

    def assign(self, value: Any) -> None:
        """Gives each of this worker's replicas its slice of a whole value."""
        share = self._workers.share
        flat = np.asarray(value).reshape(-1)
        for replica, part in zip(share.replicas, self.parts, strict=True):
            filled, start, at = np.zeros(part.shape, flat.dtype), 0, 0
            for long in self._lengths():
                held = flat[start + replica * long : start + (replica + 1) * long]
                filled[at : at + held.size] = held
                start, at = start + share.num_replicas * long, at + long
            part.assign(filled)

    def _lengths(self) -> list[int]:
        return slices.lengths(self.shape.num_elements(), self._workers.share.num_replicas)
