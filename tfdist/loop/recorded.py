"""Which gradients did a step apply?

Weights hide them: what Adam adds to a weight is the same for a gradient and for twice that. So a
step that is to be compared with another one notes what every `optimizer.apply` in it was given.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.compat import keras_internals, replacing
from tfdist.compat.untraced import plain_variable
from tfdist.global_batch import position as position_lib

Gradients = dict[str, Any]


class Recorded:
    """Notes the gradients of a step after their sum over the replicas, of any optimizers.

    Those of the step itself are values of it, which cost nothing where nobody takes them. Those of
    a `tf.cond` in it, as in a LossScaleOptimizer, are kept in variables.
    """

    def __init__(self) -> None:
        self._kept: dict[str, tf.Variable] = {}
        self._given: Gradients = {}
        self._count: dict[str, int] = {}
        self._graph: Any = None

    @contextlib.contextmanager
    def recording(self) -> Iterator[Gradients]:
        """Notes the gradients of the step that is traced, or runs, in the `with` block.

        Yields:
            What will hold them, by the path of their variable.
        """
        self._count, self._given = {}, {}
        self._graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        with replacing.replaced_apply(self._apply):
            yield self._given

    def taken(self, given: Gradients) -> dict[str, np.ndarray]:
        """Returns the gradients of the step that ran last, by the path of their variable.

        Args:
            given: Those that it returned.
        """
        kept = {name: variable.numpy() for name, variable in self._kept.items()}
        return kept | {name: np.asarray(value) for name, value in given.items()}

    def forget(self) -> None:
        """Sets the gradients to zero: those that the next step does not apply."""
        for kept in self._kept.values():
            kept.assign(tf.zeros_like(kept))

    def _apply(
        self, original: Any, optimizer: Any, grads: Any, trainable_variables: Any = None
    ) -> Any:
        # Inside of a replica's step it is the call that leads to the sum, and to here again; and
        # the optimizer in a LossScaleOptimizer is given what is not scaled any more.
        is_inner = not isinstance(optimizer, keras.optimizers.LossScaleOptimizer)
        if position_lib.current() is None and is_inner:
            variables = trainable_variables or keras_internals.trainable_variables_of(optimizer)
            self._note(grads, list(variables))
        return original(optimizer, grads, trainable_variables)

    def _note(self, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        graph = None if tf.executing_eagerly() else tf.compat.v1.get_default_graph()
        for gradient, variable in zip(gradients, variables, strict=True):
            if gradient is None:
                continue
            count = self._count[variable.path] = self._count.get(variable.path, 0) + 1
            name = variable.path if count == 1 else f"{variable.path} (update {count})"
            value = tf.ensure_shape(*_dense(gradient, variable.shape))
            if graph is self._graph:
                self._given[name] = value
                continue
            if name not in self._kept:
                self._kept[name] = plain_variable(value.dtype, shape=value.shape)
            self._kept[name].assign(value)


def _dense(gradient: Any, shape: Sequence[int]) -> tuple[tf.Tensor, Sequence[int]]:
    """Returns a gradient, or of rows of a table a weighed sum of them, and what its shape is."""
    if not isinstance(gradient, tf.IndexedSlices):
        return tf.convert_to_tensor(gradient), shape
    weights = tf.cast(tf.cos(tf.cast(gradient.indices, tf.float64)), gradient.values.dtype)
    return tf.tensordot(weights, gradient.values, 1), shape[1:]
