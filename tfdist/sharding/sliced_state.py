"""How is a state that the replicas hold in parts read and written whole, outside of a step?

Every worker has to call it: what it does not hold comes from the others, some at a time, so that no
worker needs the memory for more than one state beside its parts. Here are parts that are slices;
owned_state.py has those of which one replica holds all.
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfdist.communication import slices
from tfdist.communication.workers import Workers

PARTS = "parts"  # how `variables.Entry.per_replica` calls such a state
_BYTES_AT_A_TIME = 2**24


class HeldState(abc.ABC):
    """One state of one weight, as whoever saves and restores it sees it.

    Args:
        path: The path of the state, as it is where it is whole.
        shape: The shape of the whole.
        parts: What this worker's replicas hold of it.
        workers: All workers.

    Attributes:
        path: As given.
        shape: As given.
        parts: As given.
        dtype: The name of its type.
    """

    def __init__(
        self, path: str, shape: Any, parts: Sequence[tf.Variable], workers: Workers
    ) -> None:
        self.path, self.parts, self._workers = path, list(parts), workers
        self.shape, self.dtype = tf.TensorShape(shape), self.parts[0].dtype.name
        self.trainable = False

    @abc.abstractmethod
    def numpy(self) -> np.ndarray:
        """Returns the whole; every worker has to call it."""

    @abc.abstractmethod
    def assign(self, value: Any) -> None:
        """Gives this worker's replicas their parts of a whole value."""

    @abc.abstractmethod
    def held_by(self, replica: int) -> int:
        """Returns how many of its numbers a replica holds."""


class SlicedState(HeldState):
    """One state of one weight, of which each replica holds a slice."""

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

    def held_by(self, replica: int) -> int:
        """Returns how many numbers a slice has."""
        return sum(self._lengths())

    def _lengths(self) -> list[int]:
        return slices.lengths(self.shape.num_elements(), self._workers.share.num_replicas)


def bytes_held(state: Any, replica: int) -> int:
    """Returns how many bytes a replica holds of a state, which may be a whole variable."""
    is_parted = isinstance(state, HeldState)
    size = state.held_by(replica) if is_parted else tf.TensorShape(state.shape).num_elements()
    return int(size or 0) * tf.as_dtype(state.dtype).size


def save(states: Sequence[Any], store: Any) -> None:
    """Writes states whole into one of Keras's stores; every worker has to call it."""
    for number, state in enumerate(states):
        store[str(number)] = state.numpy()


def load(states: Sequence[Any], store: Any) -> None:
    """Reads what `save` has written.

    Raises:
        ValueError: The store has other states.
    """
    if len(store.keys()) != len(states):
        raise ValueError(
            f"The file holds {len(store.keys())} variables of an optimizer, and this one has "
            f"{len(states)}. Load the file of a model that was compiled alike."
        )
    for number, state in enumerate(states):
        state.assign(store[str(number)])
