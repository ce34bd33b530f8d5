"""What is the training step as one program?  The step of fit, with XLA's collectives inside.

`step.train_step` is traced as it stands. What it takes for its strategy is one replica's view of
the program: alone with its rows, and with collectives that XLA compiles for all replicas.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfdist import keras_compat, position, replicas, step
from tfdist.reduction import Collectives
from tfdist.replicas import Batch
from tfdist.tpu.collectives import xla_collectives
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


@dataclasses.dataclass(frozen=True)
class _OneReplica:
    """What `step.train_step` asks of a strategy, answered by a replica inside of the program."""

    place: position.Position | None  # None where it is the only one
    num_replicas_in_sync: int = 1  # others are met through the collectives alone

    def run(self, replica_fn: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        if self.place is None:
            return replica_fn(*args)
        with replicas.whole_batch_semantics(reduces_losses=True), position.at(self.place):
            return replica_fn(*args)


def refuse(model: keras.Model) -> None:
    """Raises a ValueError where a model is not compiled, or not made for one device."""
    keras_compat.assert_compiled(model, "preflight")
    strategy = keras_compat.made_under(model)
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
        collectives = xla_collectives(num_replicas)
        place = position.Position(
            global_size=rows * num_replicas,
            local_size=rows,
            offset=collectives.replica_id * rows,
            collectives=collectives,
        )
        return train(model, data, place)

    specs = keras.tree.flatten(batch)
    if steps > 1:
        specs = [tf.TensorSpec([steps, *spec.shape], spec.dtype) for spec in specs]

    def of_leaves(*leaves: Any) -> Any:
        data = keras.tree.pack_sequence_as(batch, leaves)
        return one_step(data) if steps == 1 else _in_a_loop(one_step, data, steps)

    traced = tf.function(of_leaves, autograph=False, jit_compile=True)
    keras_compat.symbolic_build(model, batch)
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


def train(model: keras.Model, data: Any, place: position.Position | None) -> Any:
    """Traces one update, as fit does it: by the model's `train_step` where it has its own.

    Args:
        model: A compiled model.
        data: One replica's rows.
        place: Where they stand in the global batch; None where they are all of it.
    """
    replica = _OneReplica(place)
    if keras_compat.overrides(model, "train_step"):
        with contextlib.nullcontext() if place is None else _summing_optimizers(place):
            replica.run(model.train_step, (data,))
        return {}
    batch = Batch(place and place.global_size, (data,))
    if place is None:
        return step.train_step(model, replica, batch)
    total = place.collectives.sum

    def apply(optimizer: Any, gradients: Sequence[Any], variables: Sequence[Any]) -> None:
        optimizer.apply([_summed(value, place.collectives) for value in gradients], variables)

    logs = step.train_step(model, replica, batch, apply=apply)
    return {name: total(value) for name, value in logs.items()}


@contextlib.contextmanager
def _summing_optimizers(place: position.Position) -> Iterator[None]:
    def apply(original: Any, optimizer: Any, gradients: Any, variables: Any = None) -> Any:
        if position.current() is None:  # an optimizer's call of the one that it wraps
            return original(optimizer, gradients, variables)
        shares = [
            None if value is None else tf.convert_to_tensor(value) * place.fraction(value.dtype)
            for value in gradients
        ]
        with position.at(None):
            summed = [_summed(value, place.collectives) for value in shares]
            return original(optimizer, summed, variables)

    with keras_compat.replaced_apply(apply):
        yield


def _summed(gradient: Any, collectives: Collectives) -> Any:
    # Rows of an embedding become a whole table: a program has no place for a number of rows that
    # depends on the data.
    return None if gradient is None else collectives.sum(tf.convert_to_tensor(gradient))


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
