"""How much memory will training take?  An estimate before it begins, for each replica.

Synopsis:

    >>> import keras
    >>> model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1000, "relu")])
    >>> model.compile("adam", "mse")
    >>> estimate = estimate_memory(model, batch_size=512)
    >>> estimate.parameter_bytes, estimate.activation_bytes
    (4004000, 2048000)
    >>> print(estimate)
    26.1 MB a replica: 4.0 parameters, 8.0 optimizer, 2.0 batch, 12.0 step (...)
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfdist.compat import keras_internals, tf_internals
from tfdist.diagnostics import liveness
from tfdist.sharding import adopting, allowed, shards

_TEMPORARIES = 2  # of an optimizer, each of the size of the variable being updated


@dataclasses.dataclass(frozen=True)
class MemoryEstimate:
    """What training takes on each replica, in bytes.

    On a CPU, five models took 1.0 to 1.7 times as much: what a kernel needs inside of itself is not
    in it, nor is what operations that run at the same time hold. The one with most of these took
    1.3 to 2.1 times its estimate from run to run, and 1.1 to 1.3 times with
    `tf.config.threading.set_inter_op_parallelism_threads(1)`. TensorFlow comes on top (some 0.4 GB
    on a CPU), and so do the dataset and batches that are prefetched.

    Attributes:
        rows: Examples of a step on one replica.
        parameter_bytes: The model's variables.
        optimizer_bytes: The optimizer's.
        batch_bytes: The inputs of one step.
        activation_bytes: What the forward pass keeps for the backward pass; a part of `step_bytes`.
        gradient_bytes: Gradients of all weights; a part of `step_bytes`.
        step_bytes: The most that a step holds at once.
        uncounted: Operations with results of unknown size, such as those of a loop over time; what
            they hold comes on top.
    """

    rows: int
    parameter_bytes: int
    optimizer_bytes: int
    batch_bytes: int
    activation_bytes: int
    gradient_bytes: int
    step_bytes: int
    uncounted: tuple[str, ...]

    @property
    def total_bytes(self) -> int:
        """The total."""
        return self.parameter_bytes + self.optimizer_bytes + self.batch_bytes + self.step_bytes

    def __str__(self) -> str:
        def mb(size: int) -> str:
            return f"{size / 1e6:.1f}"

        more = f"; {len(self.uncounted)} operations not counted" if self.uncounted else ""
        return (
            f"{mb(self.total_bytes)} MB a replica: {mb(self.parameter_bytes)} parameters, "
            f"{mb(self.optimizer_bytes)} optimizer, {mb(self.batch_bytes)} batch, "
            f"{mb(self.step_bytes)} step (of which {mb(self.activation_bytes)} activations, "
            f"{mb(self.gradient_bytes)} gradients){more}"
        )


def estimate_memory(
    model: keras.Model, *, batch_size: int, x: Any = None, sharded_optimizer: bool = False
) -> MemoryEstimate:
    """Estimates what training a model takes, by tracing its forward and backward pass.

    Nothing is trained. Variables of the model and its optimizer that do not exist yet are made, as
    `fit` would make them. The loss itself is left out, which is small beside its model.

    Args:
        model: A compiled model.
        batch_size: The global batch: examples per step, summed over all replicas.
        x: Some examples, as in `fit`; needed where the model's inputs are unknown, or have
            dimensions that are.
        sharded_optimizer: As in `fit`.

    Raises:
        ValueError: The model was not compiled, the shape of its inputs is not known, or its
            optimizer cannot hold its states in parts.
    """
    if not model.compiled:
        raise ValueError("The model is not compiled, so its optimizer is unknown. Compile it.")
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size!r} must be 1 or more. Give the global batch.")
    strategy = keras_internals.made_under(model) or tf.distribute.get_strategy()
    replicas = strategy.num_replicas_in_sync
    rows = -(-batch_size // replicas)
    with strategy.scope():
        if not model.built and x is not None:
            model(keras.tree.map_structure(lambda array: array[:1], x))
        specs = _specs(model, x, rows)
        if not (model.optimizer.built or sharded_optimizer):
            model.optimizer.build(model.trainable_variables)
    if sharded_optimizer:
        allowed.refuse(model, strategy, sharded_optimizer=True)
        adopting.adopt(model, strategy, is_wanted=True)
    sliced = shards.of(model.optimizer)
    held = _trace(model, specs)
    gradients = _bytes(model.trainable_variables)
    largest = max((_bytes([v]) for v in model.trainable_variables), default=0)
    # At the update: the gradients, their sum and the pack that it travels in, and temporaries.
    copies = (3 if replicas > 1 else 1) * gradients
    if sliced:  # of the sum, and of the weights that are updated, a part each
        of_all, largest = sliced.updated_bytes
        copies = 2 * gradients + 2 * of_all
    update = copies + _TEMPORARIES * largest
    return MemoryEstimate(
        rows=rows,
        parameter_bytes=_bytes(model.variables),
        optimizer_bytes=sliced.held_bytes if sliced else _bytes(model.optimizer.variables),
        batch_bytes=_bytes(keras.tree.flatten(specs)),
        activation_bytes=held.kept,
        gradient_bytes=gradients,
        step_bytes=max(held.peak, update),
        uncounted=held.uncounted,
    )


def _bytes(variables: Iterable[Any]) -> int:
    return sum(tf.as_dtype(v.dtype).size * math.prod(v.shape) for v in variables)


def _specs(model: keras.Model, x: Any, rows: int) -> Any:
    """Returns the specs of one replica's inputs."""
    given = x if x is not None else _inputs(model)
    if given is None:
        raise ValueError(
            "The model's inputs are not known before it is built. Give some examples, x=..., or "
            "begin it with keras.Input."
        )

    def spec(leaf: Any) -> tf.TensorSpec:
        dtype = tf.as_dtype(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype)
        if dtype.is_floating:
            dtype = tf.as_dtype(keras.config.floatx())
        if None in leaf.shape[1:]:
            raise ValueError(
                f"An input has the shape {tuple(leaf.shape)}, which leaves its size open. Give "
                "examples of the size that you train on, x=..."
            )
        return tf.TensorSpec([rows, *leaf.shape[1:]], dtype)

    return keras.tree.map_structure(spec, given)


def _inputs(model: keras.Model) -> Any:
    """Returns the symbolic inputs, in the structure that the model takes; None where unknown."""
    if isinstance(model, keras.Sequential):
        return model.inputs[0] if model.built and model.inputs else None
    return getattr(model, "input", None)


def _trace(model: keras.Model, specs: Any) -> liveness.Held:
    marks = []

    @tf.function(autograph=False)
    def step(inputs: Any) -> Any:
        variables = [variable.value for variable in model.trainable_variables]
        with tf.GradientTape() as tape:
            outputs = tf.nest.flatten(keras_internals.call(model, inputs, training=True))
        marks.append(len(tf.compat.v1.get_default_graph().get_operations()))
        found = tape.gradient(outputs, variables)
        return [tf.convert_to_tensor(g) for g in found if g is not None]

    # As on a single replica: without strategy and reduction.
    with tf_internals.default_replica_mode():
        concrete = step.get_concrete_function(specs)
    operations = concrete.graph.get_operations()
    return liveness.held(operations, num_forward=marks[-1], outputs=concrete.graph.outputs)
