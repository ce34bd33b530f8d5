"""Is the memory that training takes what was estimated before it?"""

from __future__ import annotations

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfdist
from tfdist.diagnostics import memory_limit

_MIB = 2**20


def mlp(width: int, depth: int, activation: str) -> keras.Model:
    dense = [keras.layers.Dense(width, activation) for _ in range(depth)]
    model = keras.Sequential([keras.Input((64,)), *dense, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(), "mse")
    return model


def test_parts_of_a_dense_model(logical_cpus):
    model = mlp(500, 2, "relu")
    found = tfdist.estimate_memory(model, batch_size=100)
    weights = 4 * (64 * 500 + 500 + 500 * 500 + 500 + 500 + 1)
    assert found.parameter_bytes == found.gradient_bytes == weights
    assert found.optimizer_bytes == pytest.approx(2 * weights, abs=100)
    assert found.batch_bytes == 4 * 100 * 64
    assert found.activation_bytes == 4 * 100 * 500 * 2  # outputs of the two activations
    assert found.step_bytes >= found.activation_bytes + 4 * 500
    assert found.uncounted == ()
    assert not model.optimizer.iterations.numpy().any()


def test_a_replica_has_its_share(logical_cpus):
    with tfdist.get_strategy("2xcpu").scope():
        model = mlp(500, 2, "relu")
    assert model.distribute_strategy.num_replicas_in_sync == 2
    found = tfdist.estimate_memory(model, batch_size=101)
    alone = tfdist.estimate_memory(mlp_alone(), batch_size=51)
    assert found.rows == 51
    assert found.activation_bytes == alone.activation_bytes
    assert found.parameter_bytes == alone.parameter_bytes
    assert found.step_bytes >= 3 * found.gradient_bytes  # they are packed and summed


def test_a_replica_holds_its_slice_of_the_states(logical_cpus):
    with tfdist.get_strategy("2xcpu").scope():
        model = mlp(500, 2, "relu")
    assert model.distribute_strategy.num_replicas_in_sync == 2
    found = tfdist.estimate_memory(model, batch_size=100, sharded_optimizer=True)
    # Two momentums of each weight, one half of each.
    assert found.optimizer_bytes == pytest.approx(found.parameter_bytes, rel=1e-3)
    assert found.step_bytes >= 3 * found.gradient_bytes


def test_a_replica_holds_the_states_of_the_weights_that_it_owns(logical_cpus):
    with tfdist.get_strategy("2xcpu").scope():
        layers = [keras.layers.Dense(400, use_bias=False) for _ in range(3)]
        model = keras.Sequential([keras.Input((400,)), *layers])
        model.compile(keras.optimizers.Lamb(), "mse")
    assert model.distribute_strategy.num_replicas_in_sync == 2
    found = tfdist.estimate_memory(model, batch_size=100, sharded_optimizer=True)
    one = 4 * 400 * 400
    assert found.optimizer_bytes == pytest.approx(2 * 2 * one, rel=1e-3)  # two momentums of two
    # Gradients, as they are and as they travel; of two weights the sum, and the values that it
    # gives; and what updating one of them takes.
    assert found.step_bytes == (2 * 3 + 2 * 2 + 2) * one


def mlp_alone():
    with tfdist.get_strategy("cpu").scope():
        return mlp(500, 2, "relu")


def test_activations_grow_with_the_batch(logical_cpus):
    model = mlp(50, 2, "gelu")
    one, ten = (tfdist.estimate_memory(model, batch_size=n) for n in (100, 1000))
    assert ten.activation_bytes == pytest.approx(10 * one.activation_bytes, rel=0.01)
    assert ten.parameter_bytes == one.parameter_bytes


def test_a_loop_over_time_is_named(logical_cpus):
    model = keras.Sequential([keras.Input((7, 3)), keras.layers.LSTM(5)])
    model.compile("sgd", "mse")
    found = tfdist.estimate_memory(model, batch_size=2)
    assert found.uncounted
    assert "operations not counted" in str(found)


def test_inputs_by_name(logical_cpus):
    a, b = keras.Input((3,), name="a"), keras.Input((4,), name="b")
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(keras.ops.concatenate([a, b], -1)))
    model.compile("sgd", "mse")
    assert tfdist.estimate_memory(model, batch_size=10).batch_bytes == 4 * 10 * 7


def test_a_model_that_is_not_built_needs_examples(logical_cpus):
    model = keras.Sequential([keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="inputs are not known before it is built"):
        tfdist.estimate_memory(model, batch_size=4)
    assert tfdist.estimate_memory(model, batch_size=4, x=np.ones((9, 3))).parameter_bytes == 4 * 8


def test_open_sizes_need_examples(logical_cpus):
    model = keras.Sequential([keras.Input((None, 3)), keras.layers.Dense(2)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="leaves its size open"):
        tfdist.estimate_memory(model, batch_size=4)
    found = tfdist.estimate_memory(model, batch_size=4, x=np.ones((1, 6, 3)))
    assert found.batch_bytes == 4 * 4 * 6 * 3


@pytest.mark.parametrize(
    ("is_compiled", "batch_size", "words"),
    [(False, 4, "The model is not compiled"), (True, 0, "batch_size=0 must be 1 or more")],
)
def test_bad_arguments(is_compiled, batch_size, words):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    if is_compiled:
        model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=words):
        tfdist.estimate_memory(model, batch_size=batch_size)


def used_and_estimated(width: int, depth: int, activation: str, rows: int) -> tuple[int, int]:
    """Trains in a process of its own; returns the bytes that it grew by, and the estimate.

    One operation at a time: with two threads some hold their results earlier, as they happen to
    run, and a model takes anything from 1.3 to 2.1 of its estimate.
    """
    tf.config.threading.set_inter_op_parallelism_threads(1)
    with tfdist.get_strategy("cpu").scope():
        warm, x, y = mlp(4, 1, activation), np.ones((rows, 64), "float32"), np.ones((rows, 1))
        tfdist.fit(warm, x[:2], y[:2], epochs=2, verbose=0)
        before = memory_limit.resident_bytes()
        model = mlp(width, depth, activation)
        estimate = tfdist.estimate_memory(model, batch_size=rows).total_bytes
        tfdist.fit(model, x, y, batch_size=rows, epochs=3, verbose=0)
    return memory_limit.peak_resident_bytes() - before, estimate


@pytest.mark.slow
@pytest.mark.parametrize(
    ("width", "depth", "activation", "rows"),
    [
        pytest.param(1024, 3, "gelu", 8000, id="activations", marks=pytest.mark.slow),
        pytest.param(4096, 3, "relu", 16, id="weights"),
    ],
)
def test_estimate_against_what_was_used(width, depth, activation, rows):
    args = (width, depth, activation, rows)
    [(used, estimate)] = tfdist.testing.run_workers(used_and_estimated, workers=1, args=args)
    assert estimate > 300 * _MIB  # far above what the runtime itself takes
    assert 0.75 < used / estimate < 1.7
