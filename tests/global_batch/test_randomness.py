"""tests of tfdist/global_batch/randomness.py: replicas draw their rows of what one device draws"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from parity.one_step import joined, on_replicas, parts_of, traced

from tfdist.communication import collectives, share
from tfdist.compat import keras_internals
from tfdist.global_batch import philox, randomness
from tfdist.global_batch import position as position_lib

random = keras.random
_SIZES = (7, 4, 1)  # of the global batch: uneven, even, and all replicas but one empty
_SEED = 11


def _like(x: Any, *rest: int) -> list[Any]:
    return [keras.ops.shape(x)[0], *rest]


def _twice(x: Any) -> Any:
    return keras.ops.concatenate([x, -x], axis=0)


def _flat(x: Any) -> Any:
    """Does to rows what a network does that flattens images."""
    x = keras.ops.leaky_relu(keras.ops.reshape(x, (-1, 2, 2)) * 2.0)
    return keras.ops.matmul(keras.ops.reshape(x, (-1, 4)), np.ones((4, 3), "float32"))


_DRAWS: dict[str, Callable[[Any], Any]] = {
    "uniform": lambda x: random.uniform(_like(x, 3), -1, 2, seed=_SEED),
    "uniform, float64": lambda x: random.uniform(_like(x, 3), dtype="float64", seed=_SEED),
    "uniform, float16": lambda x: random.uniform(_like(x, 3), dtype="float16", seed=_SEED),
    "uniform, bfloat16": lambda x: random.uniform(_like(x, 5), dtype="bfloat16", seed=_SEED),
    "uniform, one a row": lambda x: random.uniform(_like(x), seed=_SEED),
    "uniform, wide rows": lambda x: random.uniform(_like(x, 2, 3, 5), seed=_SEED),
    "uniform, bounds of each row": lambda x: random.uniform(_like(x, 3), 0.0, 5.0, seed=_SEED),
    "normal": lambda x: random.normal(_like(x, 3), 1.0, 2.0, seed=_SEED),
    "normal, float64": lambda x: random.normal(_like(x, 3), dtype="float64", seed=_SEED),
    "normal, float16": lambda x: random.normal(_like(x, 3), dtype="float16", seed=_SEED),
    "normal, shape as a tensor": lambda x: random.normal(tf.shape(x), seed=_SEED),
    "dropout": lambda x: random.dropout(x, 0.4, seed=_SEED),
    "dropout, one a row": lambda x: random.dropout(x, 0.4, noise_shape=(None, 1), seed=_SEED),
    "dropout of all": lambda x: random.dropout(x, 1.0, seed=_SEED),
    "randint": lambda x: random.randint(_like(x, 3), 0, 100, seed=_SEED),
    "truncated_normal": lambda x: random.truncated_normal(_like(x, 3), seed=_SEED),
    "gamma": lambda x: random.gamma(_like(x, 3), 2.0, seed=_SEED),
    "beta": lambda x: random.beta(_like(x, 3), 2.0, 3.0, seed=_SEED),
    "binomial": lambda x: random.binomial(_like(x, 3), 9.0, 0.5, seed=_SEED),
    "categorical": lambda x: random.categorical(x, 4, seed=_SEED),
    "gamma, an alpha a row": lambda x: random.gamma(
        keras.ops.shape(x), 1 + keras.ops.abs(x), seed=_SEED
    ),
    "two batches": lambda x: random.normal(keras.ops.shape(_twice(x)), seed=_SEED),
    "two batches, shape as a tensor": lambda x: random.uniform(tf.shape(_twice(x)), seed=_SEED),
    "two batches, dropout": lambda x: random.dropout(_flat(_twice(x)), 0.4, seed=_SEED),
    "two batches, randint": lambda x: random.randint(tf.shape(_twice(x)), 0, 100, seed=_SEED),
    "two batches, categorical": lambda x: random.categorical(_twice(x), 4, seed=_SEED),
    "folded time": lambda x: random.uniform([keras.ops.shape(x)[0] * 5, 2], seed=_SEED),
}


def _rows(size: int) -> np.ndarray:
    return np.random.default_rng(size).normal(size=(size, 4)).astype("float32")


@pytest.mark.parametrize("name", _DRAWS)
def test_rows_are_those_of_one_device(name: str) -> None:
    draw = _DRAWS[name]
    run = traced(draw, _rows(1), 4, fill_empty=True)
    for size in _SIZES:
        whole = np.asarray(draw(tf.constant(_rows(size))))
        results = run(_rows(size))
        counts = [b - a for a, b in (share.bounds(size, r, 4) for r in range(4))]
        per_row = len(whole) // size
        blocks = 2 if name.startswith("two") else 1
        found = np.concatenate([
            np.split(result, blocks)[block][: count * (per_row // blocks)]
            for block in range(blocks) for result, count in zip(results, counts, strict=True)
        ])
        np.testing.assert_array_equal(found, whole, err_msg=f"{size} rows")


def test_gradient_of_dropout_is_that_of_one_device() -> None:
    def gradient(x: Any) -> Any:
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = keras.ops.sum(random.dropout(x, 0.4, seed=_SEED) ** 2)
        return tape.gradient(y, x)

    rows = _rows(7)
    np.testing.assert_array_equal(joined(gradient, rows, 2), gradient(tf.constant(rows)))


def test_replicas_draw_different_values() -> None:
    first, second = on_replicas(_DRAWS["uniform"], _rows(8), 2)
    assert not np.isclose(first, second).any()


def test_draws_that_are_not_of_rows_are_the_same_everywhere() -> None:
    for shape in ((3,), (5, 2), ()):
        results = on_replicas(
            lambda x, shape=shape: random.normal(shape, seed=_SEED), _rows(7), 2
        )
        for result in results:
            np.testing.assert_array_equal(result, random.normal(shape, seed=_SEED))


def test_dropout_keeps_shape_and_expectation() -> None:
    rows = np.ones((4000, 5), "float32")
    kept = joined(lambda x: random.dropout(x, 0.25, seed=_SEED), rows, 2)
    assert kept.shape == rows.shape
    assert set(np.unique(kept)) == {0.0, np.float32(1 / 0.75)}
    assert kept.mean() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("offset", [0, 1, 2, 3, 5, 8, 1001])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_any_offset(offset: int, dtype: str) -> None:
    """The counter is moved on by whole blocks of 4 or 2 numbers, and the rest is cut."""
    whole = tf.random.stateless_uniform([offset + 9, 3], [1, 2], dtype=dtype)
    position = position_lib.Position(
        global_size=offset + 9, local_size=4, offset=offset, collectives=None
    )
    rows = philox.uniform_rows((4, 3), position, dtype=dtype, seed=tf.constant([1, 2]))
    np.testing.assert_array_equal(rows, whole[offset : offset + 4])
    normal = philox.normal_rows((4, 3), position, dtype=dtype, seed=tf.constant([1, 2]))
    whole = tf.random.stateless_normal([offset + 9, 3], [1, 2], dtype=dtype)
    np.testing.assert_array_equal(normal, whole[offset : offset + 4])


def test_compiled_normal_numbers_of_padded_rows_are_refused() -> None:
    two = dataclasses.replace(collectives.alone(), num_replicas=2)
    position = position_lib.Position(7, 3, 4, two, padded_rows=4, is_compiled=True)
    draw = randomness.keyed_draws(keras_internals.random_functions())["normal"]
    with position_lib.at(position), pytest.raises(ValueError, match=r"jit_compile.*static_shapes"):
        draw((4, 2), seed=_SEED)


def test_a_seed_generator_moves_on_once_a_step() -> None:
    generator = random.SeedGenerator(3)
    rows = _rows(4)

    def draw(x: Any) -> Any:
        return random.uniform(_like(x, 3), seed=generator)

    with_generator = np.asarray(draw(tf.constant(rows)))
    again = np.asarray(draw(tf.constant(rows)))
    assert not np.isclose(with_generator, again).any()


def test_a_generator_outside_the_strategy_moves_on_once_a_step() -> None:
    """It has one state for all replicas, and each of them asks it."""

    def draw(x: Any) -> Any:
        first = random.uniform(_like(x, 3), seed=generator)
        return first + random.normal(_like(x, 3), seed=None)

    results = []
    for call in (lambda rows: joined(draw, rows, 2), lambda rows: draw(tf.constant(rows))):
        generator = random.SeedGenerator(3)
        keras.utils.clear_session(free_memory=False)  # Keras's global generator begins anew
        keras.utils.set_random_seed(5)
        results.append((np.asarray(call(_rows(7))), np.asarray(generator.state)))
    np.testing.assert_array_equal(results[0][0], results[1][0])
    np.testing.assert_array_equal(results[0][1], results[1][1])


def test_outside_of_a_step_keras_draws_itself() -> None:
    before = np.asarray(random.uniform((4, 3), seed=_SEED))
    on_replicas(_DRAWS["uniform"], _rows(4), 2)
    np.testing.assert_array_equal(random.uniform((4, 3), seed=_SEED), before)
    assert len(parts_of(_rows(4), 2)) == 2


def test_two_steps_draw_from_one_generator_where_no_seed_is_given() -> None:
    def drawn() -> list[Any]:
        def fn(x: Any) -> Any:
            return random.uniform(_like(x, 3))

        return [joined(fn, _rows(5), 2) for _ in range(2)]

    keras.utils.set_random_seed(3)
    first, second = drawn()
    assert np.abs(first - second).max() > 0.01
    keras.utils.set_random_seed(3)
    generator = keras.random.SeedGenerator()
    for values in (first, second):
        seed = generator.next(ordered=False)
        expected = tf.random.stateless_uniform((5, 3), seed)
        np.testing.assert_allclose(values, expected, rtol=1e-6)
