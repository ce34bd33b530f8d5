"""What is the training step of fit, alone?  The program of one replica, traced without a TPU.

`rules.whole_step` is what fit runs on every replica of a TPU. Here it is traced as it stands, for
rows that fill their batch, and with the same collectives, which XLA compiles for all replicas.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist.communication.collectives import xla_collectives
from tfdist.compat import keras_internals
from tfdist.data import shapes
from tfdist.global_batch import position as position_lib
from tfdist.global_batch import tracing
from tfdist.step import replicas, rules, tpu_step
from tfdist.tpu.scopes import Origins, recorded


@dataclasses.dataclass(frozen=True)
class Program:
    """One replica's program of one training step, or of several.

    Attributes:
        concrete: Its graph.
        lower: Gives it as StableHLO, serialized.
        origins: Which layer made which operation.
        parameter_bytes: Bytes of the model's weights and other variables, metrics included, as
            their shapes say, on each replica.
        optimizer_bytes: Bytes of the optimizer's variables, on each replica.
        batch_bytes: Bytes of one replica's rows, of all steps.
    """

    concrete: Any
    lower: Callable[[], bytes]
    origins: Origins
    parameter_bytes: int
    optimizer_bytes: int
    batch_bytes: int


def refuse(model: keras.Model) -> None:
    """Raises a ValueError where a model is not compiled, or not made for one device."""
    keras_internals.assert_compiled(model, "preflight")
    strategy = keras_internals.made_under(model)
    if strategy is not None and strategy.num_replicas_in_sync > 1:
        raise ValueError(
            f"The model {model.name!r} was made under a strategy of"
            f" {strategy.num_replicas_in_sync} replicas, but the program of a TPU is one replica's."
            " Make and compile it outside of any strategy's scope for this check."
        )


def make_program(
    model: keras.Model, batch: Any, *, origins: Origins, num_replicas: int = 1, steps: int = 1
) -> Program:
    """Traces the training step of a model for `num_replicas` replicas.

    The variables of the model, its optimizer and its metrics are created, as by fit.

    Args:
        model: A compiled model that `refuse` lets pass.
        batch: Specs of one replica's rows, `(x,)`, `(x, y)` or `(x, y, sample_weight)`.
        origins: Takes down which layer made which operation, also where tracing fails.
        num_replicas: Replicas that run the program; each has as many rows.
        steps: Steps in one execution.
    """
    rows = _rows(batch)

    def one_step(data: Any) -> Any:
        if num_replicas == 1:
            return train(model, data, None)
        full = shapes.Padding(rows, is_needed=False)
        collectives = xla_collectives(num_replicas)
        position = replicas.position_of(rows * num_replicas, padding=full, collectives=collectives)
        return train(model, data, position)

    specs = keras.tree.flatten(batch)
    if steps > 1:
        specs = [tf.TensorSpec([steps, *spec.shape], spec.dtype) for spec in specs]

    def of_leaves(*leaves: Any) -> Any:
        data = keras.tree.pack_sequence_as(batch, leaves)
        return one_step(data) if steps == 1 else _in_a_loop(one_step, data, steps)

    traced = tf.function(of_leaves, autograph=False, jit_compile=True)
    # Of a program's first fit the model was made under the strategy of its one device.
    made_under = keras_internals.made_under(model)
    with made_under.scope() if made_under is not None else contextlib.nullcontext():
        keras_internals.symbolic_build(model, batch)
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
    with recorded(model, origins):
        concrete = traced.get_concrete_function(*specs)
    return Program(
        concrete=concrete,
        lower=lambda: traced.experimental_get_compiler_ir(*specs)(stage="stablehlo_serialized"),
        origins=origins,
        parameter_bytes=_bytes([*model.variables, *model.metrics_variables]),
        optimizer_bytes=_bytes(model.optimizer.variables),
        batch_bytes=_bytes(specs),
    )


def train(model: keras.Model, data: Any, position: position_lib.Position | None) -> Any:
    """Traces one update, as each replica of a TPU does it in fit.

    Args:
        model: A compiled model.
        data: One replica's rows.
        position: Where they stand in the global batch; None where they are all of it.

    Returns:
        The sums of the logs that are not results of the model's metrics.
    """
    whole = rules.whole_step(model)
    if position is None:
        return whole(data)
    with tracing.whole_batch_semantics(reduces_losses=True), position_lib.at(position):
        return tpu_step.sum_shares(whole(data))


def _in_a_loop(one_step: Callable[[Any], Any], batches: Any, steps: int) -> Any:
    def body(done: tf.Tensor) -> tuple[tf.Tensor]:
        one_step(keras.tree.map_structure(lambda rows: tf.gather(rows, done), batches))
        return (done + 1,)

    return tf.while_loop(lambda done: done < steps, body, (tf.constant(0),))


def _rows(batch: Any) -> int:
    return int(keras.tree.flatten(batch)[0].shape[0])


def _bytes(values: Sequence[Any]) -> int:
    unique = {id(value): value for value in values}
    return sum(
        (tf.TensorShape(value.shape).num_elements() or 0) * tf.as_dtype(value.dtype).size
        for value in unique.values()
    )
