"""Does one example change a sum by no more than the norm, whatever it and the others are?

The property that all else rests on, tried on examples that are huge, not finite, or whose timesteps
cancel each other, in float32, where rounding is worst.
"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from tfdist.privacy import factors, ghost, recording
from tfdist.privacy.ruled import ruled_layers

_ROWS, _STEPS, _WIDTH, _NORM = 6, 4, 5, 0.7
_TOLERANCE = 1e-4  # of float32 over the rows of a sum
_L = keras.layers


def _model() -> keras.Model:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [keras.Input((_STEPS, _WIDTH)), _L.Dense(3), _L.LayerNormalization(), _L.Dense(12, "tanh"),
         _L.Conv1D(2, 2), _L.Flatten(), _L.Dense(3)]
    )  # fmt: skip
    assert ruled_layers(model)
    return model


@pytest.fixture(scope="module")
def sums_of(logical_cpus) -> Any:
    """Returns the function of examples, targets and which rows count that gives a flat sum."""
    model = _model()
    layers = ruled_layers(model)

    @tf.function(autograph=False)
    def sums(x: Any, y: Any, counts: Any) -> Any:
        with recording.listening(layers):
            found = ghost.clipped_sums(
                layers, model.trainable_variables,
                lambda: tf.reduce_sum(tf.square(model(x) - y), 1),
                rows=_ROWS, counts=counts, norm=_NORM,
            )
        return tf.concat([tf.reshape(one, [-1]) for one in found], 0)

    return lambda x, y, counts: sums(
        tf.constant(x, tf.float32), tf.constant(y, tf.float32), tf.constant(counts)
    ).numpy()


_FACTORS = st.sampled_from([0.0, 1e-30, 1e-3, 1.0, 1e6, 1e18, 1e30, np.inf, np.nan])


@settings(max_examples=60, derandomize=True, deadline=None)
@given(
    seed=st.integers(0, 10**6), of_inputs=st.lists(_FACTORS, min_size=_ROWS, max_size=_ROWS),
    of_targets=st.lists(_FACTORS, min_size=_ROWS, max_size=_ROWS),
    counted=st.integers(0, _ROWS), cancels=st.booleans(),
)
def test_one_example_changes_a_sum_by_the_norm_at_most(
    sums_of, seed, of_inputs, of_targets, counted, cancels
):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(_ROWS, _STEPS, _WIDTH))
    if cancels:  # each timestep is the negative of the one before it
        x *= 1e-3
        x[:, 1::2] += 1
        x[:, ::2] -= 1
    x *= np.array(of_inputs)[:, None, None]
    y = rng.normal(size=(_ROWS, 3)) * np.array(of_targets)[:, None]
    counts = np.arange(_ROWS) < counted
    whole = sums_of(x, y, counts)
    assert np.isfinite(whole).all()
    assert np.linalg.norm(whole) <= counted * _NORM * (1 + _TOLERANCE)
    for row in range(counted):
        without = sums_of(x, y, counts & (np.arange(_ROWS) != row))
        assert np.linalg.norm(whole - without) <= _NORM * (1 + _TOLERANCE)


def test_a_row_that_does_not_count_changes_nothing(sums_of):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(_ROWS, _STEPS, _WIDTH)), rng.normal(size=(_ROWS, 3))
    counts = np.arange(_ROWS) < 4
    expected = sums_of(x, y, counts)
    assert np.linalg.norm(expected) > 0.5
    x[4:], y[5] = np.nan, np.inf
    np.testing.assert_array_equal(sums_of(x, y, counts), expected)
    np.testing.assert_array_equal(sums_of(x, y, np.zeros(_ROWS, bool)), 0)


@pytest.mark.parametrize("size", [8, 64])
def test_timesteps_that_cancel_are_not_taken_for_a_small_gradient(size):
    # In float32 the products of such numbers add up to anything, also to less than nothing.
    rng = np.random.default_rng(2)
    a = np.repeat(rng.normal(size=(64, 1, size)), 2, 1).astype("float32") * 1e4
    d = rng.normal(size=(64, 2, size)).astype("float32")
    d[:, 1] = -d[:, 0] * (1 + 1e-6 * rng.normal(size=(64, size)))
    exact = np.einsum("bti,bto->bio", a.astype(float), d.astype(float))
    squares = factors.of_products(tf.constant(a), tf.constant(d)).squares.numpy()
    assert (squares >= (exact**2).sum((1, 2)) * (1 - 1e-5)).all()


def test_clipping_leaves_small_gradients_alone():
    squares = tf.constant([0.0, 0.01, 4.0, np.inf, np.nan, 1.0], tf.float64)
    counts = tf.constant([True] * 5 + [False])
    found = factors.factors_of(squares, counts, 0.5).numpy()
    np.testing.assert_allclose(found, [1, 1, 0.25, 0, 0, 0], rtol=1e-15)
