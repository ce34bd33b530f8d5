"""tests of tfdist/tpu/program.py and communication/collectives.py: the uncompiled program"""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity import worlds

from tfdist.communication.collectives import xla_collectives
from tfdist.global_batch.position import Position
from tfdist.tpu import example
from tfdist.tpu.program import Program, make_program, refuse, train
from tfdist.tpu.scopes import Origins

layers = keras.layers


def _program(model: keras.Model, *, num_replicas: int = 1, **options: Any) -> Program:
    specs = example.specs(model, rows=4)
    return make_program(model, specs, origins=Origins(), num_replicas=num_replicas, **options)


def _model(*parts: Any, optimizer: Any = "sgd", **options: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((8,)), *parts])
    model.compile(optimizer, "mse", **options)
    return model


def _kinds(program: Program) -> list[str]:
    return [operation.type for operation in program.concrete.graph.get_operations()]


def test_program_of_one_replica_is_the_step_of_keras() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 8)).astype("float32"), rng.normal(size=(4, 3)).astype("float32")
    keras.utils.set_random_seed(1)
    models = [
        _model(
            layers.Dense(5, activation="tanh"), layers.BatchNormalization(), layers.Dense(3),
            # The epsilon keeps Adam from blowing up the rounding of gradients that are all but 0.
            optimizer=keras.optimizers.Adam(0.1, global_clipnorm=0.1, epsilon=1e-2),
            metrics=["mae"],
        )
        for _ in range(2)
    ]  # fmt: skip
    models[1].set_weights(models[0].get_weights())
    assert "XlaAllReduce" not in _kinds(_program(models[0]))

    @tf.function(autograph=False, jit_compile=True)
    def as_one_of_many(*data: Any) -> None:
        collectives = xla_collectives(1)  # the sum over one, which the CPU can compute
        train(models[0], data, Position(4, 4, collectives.replica_id * 4, collectives))

    graph = as_one_of_many.get_concrete_function(x, y).graph
    kinds = [operation.type for operation in graph.get_operations()]
    assert kinds.count("XlaAllReduce") == len(models[0].trainable_variables)
    for _ in range(2):
        as_one_of_many(x, y)
        expected = models[1].train_on_batch(x, y, return_dict=True)
        models[1].reset_metrics()
    for found, other in zip(models[0].get_weights(), models[1].get_weights(), strict=True):
        np.testing.assert_allclose(found, other, rtol=1e-4, atol=1e-6)
    assert models[0].metrics[0].count.numpy() == 8
    assert np.isfinite(expected["loss"])


def test_bytes_are_counted_by_shapes() -> None:
    model = _model(layers.Dense(16, use_bias=False), optimizer=keras.optimizers.Adam())
    program = _program(model)
    metric_bytes = 2 * 4  # the mean loss: a sum and a count
    assert program.parameter_bytes == 8 * 16 * 4 + metric_bytes
    assert program.optimizer_bytes == 2 * 8 * 16 * 4 + 8 + 4  # moments, iterations, learning rate
    assert program.batch_bytes == 4 * (8 + 16) * 4


def test_all_replicas_are_in_it() -> None:
    text = _lowered(_program(_model(layers.Dense(4)), num_replicas=8))
    assert "all_reduce" in text
    assert "0, 1, 2, 3, 4, 5, 6, 7" in text


def _lowered(program: Program) -> str:
    assert program.lower()
    function = tf.function(program.concrete, jit_compile=True)
    specs = [spec for spec in program.concrete.inputs if spec.dtype != tf.resource]
    return function.experimental_get_compiler_ir(
        *(tf.TensorSpec(spec.shape, spec.dtype) for spec in specs)
    )(stage="stablehlo")


@pytest.mark.parametrize(
    ("parts", "extra"),
    [
        ([], 0),
        ([layers.BatchNormalization], 0),
        # Sum, sum of squares and count, and the gradients of the first two.
        ([lambda: layers.BatchNormalization(synchronized=True)], 5),
    ],
    ids=["none", "plain", "synchronized"],
)
def test_statistics_are_summed_where_they_are_synchronized(parts: Any, extra: int) -> None:
    model = _model(layers.Dense(4), *(make() for make in parts), layers.Dense(2))
    kinds = _kinds(_program(model, num_replicas=8))
    assert kinds.count("XlaAllReduce") == len(model.trainable_variables) + extra


class OwnStep(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        x, y = data
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(tf.square(self(x, training=True) - y))
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}


def test_step_of_ones_own_is_reduced_too() -> None:
    model = OwnStep()
    model.compile("sgd", "mse")
    specs = (tf.TensorSpec((4, 8)), tf.TensorSpec((4, 3)))
    program = make_program(model, specs, origins=Origins(), num_replicas=8)
    # Two gradients, and the loss that the step returns as a log.
    assert _kinds(program).count("XlaAllReduce") == 3
    assert program.lower()


def test_loss_of_the_whole_batch_lowers() -> None:
    model = _model(layers.Dense(3))
    model.compile("sgd", lambda y, p: tf.reduce_max(tf.abs(y - p)))
    assert _program(model, num_replicas=8).lower()


def test_steps_of_one_execution_are_a_loop() -> None:
    model = _model(layers.Dense(3))
    program = _program(model, num_replicas=2, steps=5)
    shapes = [spec.shape for spec in program.concrete.inputs if spec.dtype == tf.float32]
    assert shapes == [(5, 4, 8), (5, 4, 3)]
    assert len(re.findall(r"stablehlo\.while", _lowered(program))) == 1


def test_refused_models() -> None:
    with pytest.raises(ValueError, match="compile"):
        refuse(keras.Sequential([layers.Dense(2)]))
    with worlds.local_strategy(2).scope():
        model = _model(layers.Dense(2))
    with pytest.raises(ValueError, match="under a strategy of 2 replicas.*outside of any"):
        refuse(model)
