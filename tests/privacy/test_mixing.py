"""Is a model refused that mixes the examples of a batch, in whatever way, and no other one?"""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import ops
from parity.worlds import local_strategy

import tfdist
from tfdist.privacy import DPSGD, mixing

_L = keras.layers
_RNG = np.random.default_rng(0)
_X, _Y = _RNG.normal(size=(12, 6)).astype("float32"), np.arange(12) % 3
_PRIVACY = {
    "l2_norm_clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-3, "expected_batch_size": 4
}  # fmt: skip


class _Centering(_L.Layer):
    def call(self, x: Any) -> Any:
        return x - ops.mean(x, axis=0, keepdims=True)


class _InTraining(_L.Layer):
    def call(self, x: Any, training: bool = False) -> Any:
        return x + ops.max(x, axis=0, keepdims=True) if training else x


class _Gated(_L.Layer):
    """Adds what mixes examples by a weight that begins with 0, as residual branches do."""

    def build(self, shape: Any) -> None:
        self.gate = self.add_weight(shape=(), initializer="zeros", name="gate")

    def call(self, x: Any) -> Any:
        return x + self.gate * ops.matmul(ops.softmax(ops.matmul(x, ops.transpose(x))), x)


class _Counting(_L.Layer):
    def call(self, x: Any) -> Any:
        return x / ops.cast(ops.shape(x)[0], x.dtype)


class _Backwards(_L.Layer):
    """Gives each example the mean of all examples' gradients."""

    def call(self, x: Any) -> Any:
        @tf.custom_gradient
        def same(value: Any) -> Any:
            return value, lambda back: tf.ones_like(back) * tf.reduce_mean(back, 0)

        return same(x)


class _OwnDraws(_L.Layer):
    def call(self, x: Any) -> Any:
        return x + tf.random.normal(tf.shape(x))


class _KeyedDraws(_L.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.seeds = keras.random.SeedGenerator(1)

    def call(self, x: Any, training: bool = False) -> Any:
        return x + 0.1 * keras.random.normal(ops.shape(x), seed=self.seeds) if training else x


def _contrastive(y_true: Any, y_pred: Any) -> Any:
    """Takes the other examples of the batch for negatives."""
    scores = ops.matmul(y_pred, ops.transpose(y_pred))
    return ops.logsumexp(scores, axis=1) - ops.sum(y_pred**2, axis=1)


def _of(*layers: Any, loss: Any = "mse", dtype: Any = None) -> keras.Model:
    model = keras.Sequential(
        [keras.Input((6,)), _L.Dense(6, "tanh"), *layers, _L.Dense(3, dtype=dtype)]
    )
    model.compile("sgd", loss)
    return model


def _functional() -> keras.Model:
    given = keras.Input((6,))
    found = ops.softmax(_L.Dense(6)(given), axis=0)
    model = keras.Model(given, _L.Dense(3)(found))
    model.compile("sgd", "mse")
    return model


def _attention() -> keras.Model:
    given = keras.Input((6,))
    found = _L.Reshape((3, 2))(_L.Dense(6)(given))
    seen = _L.MultiHeadAttention(2, 3, dropout=0.2)(found, found)
    seen = _L.GroupQueryAttention(3, 2, 1)(query=seen, value=found)
    model = keras.Model(given, _L.Dense(3)(_L.Flatten()(_L.LayerNormalization()(seen))))
    model.compile("sgd", "mse")
    return model


def _words(*layers: Any) -> keras.Model:
    return _of(_L.Reshape((3, 2)), *layers, _L.Flatten())


_MIXING = {
    "'centre' of": lambda: _of(_Centering(name="centre")),
    "'training' of": lambda: _of(_InTraining(name="training")),
    "'gated' of": lambda: _of(_Gated(name="gated")),
    "'counting' of": lambda: _of(_Counting(name="counting")),
    "the gradient of": lambda: _of(_Backwards()),
    "'softmax": _functional,
    "'batchwise' of": lambda: _of(_L.Softmax(axis=0, name="batchwise")),  # has no weights
    "'unit' of": lambda: _of(_L.UnitNormalization(axis=0, name="unit"), _L.Dropout(0.5)),
    "the loss of": lambda: _of(loss=_contrastive),
    "numbers that Keras does not know of": lambda: _of(_OwnDraws()),
}
_APART = {
    "dropout": lambda: _of(_L.Dropout(0.5), _L.GaussianNoise(0.1)),
    "draws of its own": lambda: _of(_KeyedDraws()),
    "recurrent": lambda: _words(_L.Bidirectional(_L.LSTM(3, dropout=0.3, return_sequences=True))),
    "attention": lambda: _attention(),
    "groups": lambda: _words(_L.GroupNormalization(1), _L.Conv1D(4, 2)),
    "bfloat16": lambda: _of(_L.Dense(9, "gelu", dtype="mixed_bfloat16"), dtype="float32"),
    "frozen statistics": lambda: _of(_L.BatchNormalization(trainable=False)),
    "pairs of an example": lambda: _of(
        loss=lambda y_true, y_pred: ops.max(y_pred[:, :, None] - y_pred[:, None, :], axis=[1, 2])
    ),
}


def _made(build: Any) -> keras.Model:
    keras.utils.set_random_seed(0)
    with local_strategy(2).scope():
        return build()


def _targets() -> np.ndarray:
    return np.eye(3, dtype="float32")[_Y]


@pytest.mark.parametrize("told", _MIXING)
def test_what_mixes_examples_is_refused_by_name(told, logical_cpus):
    model = _made(_MIXING[told])
    before = [np.asarray(v) for v in model.variables]
    with pytest.raises(ValueError, match=r"Use .*") as error:
        tfdist.fit(model, _X, _targets(), verbose=0, privacy=DPSGD(**_PRIVACY))
    assert told in str(error.value)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))


@pytest.mark.parametrize("name", _APART)
def test_what_does_not_is_not(name, logical_cpus):
    model = _made(_APART[name])
    assert model.distribute_strategy.num_replicas_in_sync == 2
    before = [np.asarray(v) for v in model.variables]
    mixing.refuse(model, model.distribute_strategy, (tf.constant(_X[:4]), _targets()[:4]))
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))


def test_a_trial_is_told_apart_from_numbers_that_are_no_numbers(logical_cpus):
    """An example that is NaN makes those beside it so only where it is mixed with them."""
    x = _X.copy()
    x[0] = np.nan
    rows = tf.constant(x[:4]), _targets()[:4]
    apart, mixed = _made(_of), _made(lambda: _of(_Centering(name="centre")))
    mixing.refuse(apart, apart.distribute_strategy, rows)
    with pytest.raises(ValueError, match="'centre'"):
        mixing.refuse(mixed, mixed.distribute_strategy, rows)
