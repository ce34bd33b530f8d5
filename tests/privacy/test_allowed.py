"""Is everything refused, by name and with a cure, that would make the promise a lie?"""

from __future__ import annotations

import re
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
import tpu_standin
from parity.worlds import local_strategy

import tfdist
from tfdist.privacy import DPSGD

_L = keras.layers
_X, _Y = np.ones((12, 4), "float32"), np.arange(12) % 3
_PRIVACY = {
    "l2_norm_clip": 1.0, "noise_multiplier": 1.0, "delta": 1e-3, "expected_batch_size": 4
}  # fmt: skip


class _OwnStep(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = _L.Dense(3)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        return super().train_step(data)


class _OwnLoss(_OwnStep):
    train_step = keras.Model.train_step

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_loss(*args, **kwargs)


class _OwnMetrics(_OwnStep):
    train_step = keras.Model.train_step

    def compute_metrics(self, *args: Any, **kwargs: Any) -> Any:
        return super().compute_metrics(*args, **kwargs)


class _Stateful(_L.Layer):
    stateful = True

    def call(self, x: Any) -> Any:
        return x


class _Counting(keras.layers.Layer):
    def build(self, shape: Any) -> None:
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False, name="seen")

    def call(self, x: Any) -> Any:
        self.seen.assign(self.seen + keras.ops.mean(x))
        return x


class _Adding(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        self.add_loss(keras.ops.mean(x))
        return x


def _number(y_true: Any, y_pred: Any) -> Any:
    return tf.reduce_mean(tf.square(y_pred))


def _of(*layers: Any, **compiled: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((4,)), *layers, _L.Dense(3)])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(**{"optimizer": "sgd", "loss": loss, **compiled})
    return model


def _own(kind: Any) -> keras.Model:
    model = kind()
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return model


def _frozen() -> keras.Model:
    model = _of()
    model.trainable = False
    model.compile("sgd", "mse")
    return model


def _sum() -> Any:
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True, reduction="sum")


class _OwnCall(keras.losses.Loss):
    """Reduces by itself, where no other reduction can be asked for."""

    def __call__(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> Any:
        return keras.ops.sum(keras.ops.square(y_pred))


def _scaled() -> Any:
    return keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())


_FLOAT8 = keras.dtype_policies.QuantizedFloat8DTypePolicy("float8", "mixed_bfloat16")
# On several replicas these are refused without privacy too.
_MODELS_OF_ONE_DEVICE = {
    "keeps a state of its rows": lambda: _of(_Stateful()),
    "float8 scales": lambda: _of(_L.Dense(4, dtype=_FLOAT8)),
}
_MODELS = {
    "BatchNormalization": lambda: _of(_L.BatchNormalization(name="norm")),
    "'norm'": lambda: _of(_L.BatchNormalization(name="norm", synchronized=True)),
    "activity regularizer": lambda: _of(_L.Dense(3, activity_regularizer="l2")),
    "may write": lambda: _of(_Counting()),
    "is the loss of no single example": lambda: _of(_Adding()),
    "LossScaleOptimizer": lambda: _of(optimizer=_scaled()),
    "gradient_accumulation_steps=2": lambda: _of(
        optimizer=keras.optimizers.SGD(gradient_accumulation_steps=2)
    ),
    "_OwnStep.train_step": lambda: _own(_OwnStep),
    "_OwnLoss.compute_loss": lambda: _own(_OwnLoss),
    "_OwnMetrics.compute_metrics": lambda: _own(_OwnMetrics),
    "one number for the whole batch": lambda: _of(loss=_number),
    "one number of all examples": lambda: _of(loss=_OwnCall()),
    "reduction='sum'": lambda: _of(loss=_sum()),
    "nothing to train": _frozen,
}
_OPTIONS = {
    "already_sharded": {"already_sharded": True},
    "on_nan='skip'": {"on_nan": "skip"},
    "check='whole'": {"check": "whole"},
    "narrower reduction": {"reduction": "bfloat16"},
    "reduction='auto'": {"reduction": "auto"},
    "local_steps=2": {"local_steps": 2},
    "static_shapes=False": {"static_shapes": False},
    "length_buckets": {"length_buckets": (4, 8)},
    "shuffle=False": {"shuffle": False},
    "batch_size=8": {"batch_size": 8},
    "privacy=True says": {"privacy": True},
}
_ASKED = {
    "l2_norm_clip=0": {"l2_norm_clip": 0},
    "l2_norm_clip=nan": {"l2_norm_clip": float("nan")},
    "l2_norm_clip=inf": {"l2_norm_clip": float("inf")},
    "follow from each other": {"target_epsilon": 3.0},
    "target_epsilon=None follow": {"noise_multiplier": None},
    "noise_multiplier=-1": {"noise_multiplier": -1},
    "delta=0": {"delta": 0},
    "delta=1": {"delta": 1},
    "expected_batch_size=0": {"expected_batch_size": 0},
    "expected_batch_size=2.5": {"expected_batch_size": 2.5},
    "physical_batch_size=0": {"physical_batch_size": 0},
    "batch_cap=4.5 counts": {"batch_cap": 4.5},
    "batch_cap=3 cuts most draws": {"batch_cap": 3},
}
_ASKED_OF_DATA = {
    "delta=0.1 would allow": {"delta": 0.1},
    "expected_batch_size=13 is more than the 12": {"expected_batch_size": 13},
}


def _refusal(model: keras.Model, **given: Any) -> str:
    before = [np.asarray(v) for v in model.weights]
    with pytest.raises(ValueError, match=r"\.") as error:
        tfdist.fit(model, _X, _Y, verbose=0, **{"privacy": DPSGD(**_PRIVACY), **given})
    if before:  # nothing was trained
        for old, new in zip(before, model.weights, strict=True):
            np.testing.assert_array_equal(old, np.asarray(new))
    text = str(error.value)
    assert re.search(r"(Use|Give|Leave|Make|Train|Return|Set|Call)\b", text), text
    return text


@pytest.mark.parametrize("told", _MODELS)
def test_models_are_refused(told, logical_cpus):
    with local_strategy(2).scope():
        model = _MODELS[told]()
    assert told in _refusal(model)


@pytest.mark.parametrize("told", _MODELS_OF_ONE_DEVICE)
def test_models_of_one_device_are_refused(told):
    with tf.distribute.OneDeviceStrategy("/cpu:0").scope():
        model = _MODELS_OF_ONE_DEVICE[told]()
    assert told in _refusal(model)


@pytest.mark.parametrize("told", _OPTIONS)
def test_options_are_refused(told, logical_cpus):
    with local_strategy(2).scope():
        model = _of()
    assert told in _refusal(model, **_OPTIONS[told])


@pytest.mark.parametrize("told", _ASKED)
def test_what_is_asked_is_refused_before_there_is_data(told):
    with pytest.raises(ValueError, match=re.escape(told)):
        DPSGD(**_PRIVACY | _ASKED[told])


@pytest.mark.parametrize("told", _ASKED_OF_DATA)
def test_what_is_asked_of_the_data_is_refused(told, logical_cpus):
    with local_strategy(2).scope():
        model = _of()
    with pytest.raises(ValueError, match=re.escape(told)):
        tfdist.fit(model, _X, _Y, verbose=0, privacy=DPSGD(**_PRIVACY | _ASKED_OF_DATA[told]))


def test_a_frozen_batch_normalization_is_a_layer_like_any_other(logical_cpus):
    with local_strategy(2).scope():
        model = _of(_L.BatchNormalization(trainable=False))
    tfdist.fit(model, _X, _Y, verbose=0, steps_per_epoch=1, privacy=DPSGD(**_PRIVACY))
    assert model.history.history["epsilon"][0] > 0


def test_a_tpu_is_refused(logical_cpus):
    strategy = tpu_standin.strategy(2)
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = _of()
    with pytest.raises(ValueError, match="cannot be combined with TPUStrategy. Leave out one"):
        tfdist.fit(model, _X, _Y, verbose=0, privacy=DPSGD(**_PRIVACY))


def test_a_rule_of_the_users_is_refused(logical_cpus):
    with local_strategy(2).scope():
        model = _of()
    trainer = tfdist.Trainer(model, replica_step=lambda batch: {})
    with pytest.raises(ValueError, match="replica_step, which sums gradients itself"):
        trainer.fit(_X, _Y, privacy=DPSGD(**_PRIVACY), verbose=0)
