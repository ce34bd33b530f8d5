"""What does the server do with the mean of its clients' changes?  It moves its weights by it.

Without an optimizer the new weights are the clients' mean (FedAvg). With one, the negative mean
change is its gradient: FedAdam and the like, Reddi et al. 2021, arXiv:2003.00295; with SGD and
momentum FedAvgM, Hsu et al. 2019, arXiv:1909.06335. Statistics such as moving averages are not
trained, so they are the clients' mean in any case.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.communication.workers import Workers
from tfdist.compat import tf_internals
from tfdist.step import variables


class Server:
    """The weights of the server, and the optimizer that moves them.

    It computes on the host's CPU, outside of any strategy of the clients.

    Args:
        values: The weights that the first round begins with, by name.
        trainable: The names of those that the optimizer moves.
        optimizer: A Keras optimizer, of which a copy is used; None for the mean.

    Attributes:
        values: The current weights, by name.
    """

    def __init__(
        self,
        values: Mapping[str, np.ndarray],
        trainable: Sequence[str],
        optimizer: keras.optimizers.Optimizer | None = None,
    ) -> None:
        if optimizer is not None and not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(
                f"server_optimizer={optimizer!r} must be a Keras optimizer, such as "
                "keras.optimizers.Adam(0.01), or None for the mean."
            )
        self.values = dict(values)
        self._trainable = list(trainable)
        self._strategy = tf.distribute.OneDeviceStrategy("/cpu:0")
        self._optimizer: Any = None
        if optimizer is None:
            return
        with self._strategy.scope():
            self._optimizer = type(optimizer).from_config(optimizer.get_config())
            self._variables = [
                keras.Variable(self.values[name], dtype=self.values[name].dtype.name)
                for name in self._trainable
            ]
            self._optimizer.build(self._variables)
        self._entries = variables.entries_of(self._optimizer)

    def move(self, mean: Mapping[str, np.ndarray]) -> None:
        """Moves the weights by the mean of the clients' changes.

        Args:
            mean: float64, by name.
        """
        moved = {
            name: (self.values[name].astype(np.float64) + change).astype(self.values[name].dtype)
            for name, change in mean.items()
        }
        if self._optimizer is not None:
            moved |= self._optimized(mean)
        self.values |= moved

    def _optimized(self, mean: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with tf_internals.default_replica_mode():
            for variable, name in zip(self._variables, self._trainable, strict=True):
                variable.assign(self.values[name])
            gradients = [
                tf.constant(-mean[name], variable.dtype)
                for variable, name in zip(self._variables, self._trainable, strict=True)
            ]
            self._optimizer.apply(gradients, self._variables)
        return {
            name: np.array(variable.value)
            for variable, name in zip(self._variables, self._trainable, strict=True)
        }

    def state(self) -> dict[str, np.ndarray]:
        """Returns the states of the optimizer, by name."""
        if self._optimizer is None:
            return {}
        found = variables.snapshot(self._entries, Workers(self._strategy))
        return {name: np.array(value) for name, value in found.items()}

    def restore(self, values: Mapping[str, np.ndarray], state: Mapping[str, np.ndarray]) -> None:
        """Takes up weights, and the states of the optimizer as `state` has returned them."""
        self.values = dict(values)
        if self._optimizer is not None:
            variables.restore(self._entries, state, Workers(self._strategy))
