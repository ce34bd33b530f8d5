"""tests of tfdist/tpu/linting.py: one planted fault each"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfdist.tpu.limits import RULES
from tfdist.tpu.linting import lint

layers = keras.layers


class _Planted(layers.Layer):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(name="planted")
        self._function = function

    def call(self, inputs: Any) -> Any:
        return inputs + tf.cast(tf.stop_gradient(self._function(inputs)), inputs.dtype)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return input_shape


def _model(*parts: Any, shape: Any = (128,), dtype: Any = None, **options: Any) -> keras.Model:
    model = keras.Sequential([keras.Input(shape, dtype=dtype), *parts])
    model.compile(**{"optimizer": "sgd", "loss": "mse", **options})
    return model


def _python(x: Any) -> Any:
    result = tf.py_function(lambda value: value, [x], tf.float32)
    result.set_shape(x.shape)
    return result


def _printing(x: Any) -> Any:
    tf.print(x)
    return x


_LAYERS = {
    "python_function": (_python, "EagerPyFunc"),
    "host_callback": (_printing, "StringFormat, PrintV2"),
    "string": (lambda x: tf.strings.length(tf.strings.as_string(x)), "AsString, StringLength"),
    "no_kernel": (
        lambda x: tf.random.stateless_gamma((8, 128), [1, 2], tf.abs(x)),
        "StatelessRandomGammaV3",
    ),
    "float64": (lambda x: tf.cast(x, tf.float64) * 2, "Cast, Mul, StopGradient"),
    "boolean_mask": (lambda x: tf.reduce_sum(tf.boolean_mask(x, x[:, 0] > 0)), "Where"),
    "unique": (lambda x: tf.reduce_sum(tf.unique(tf.reshape(x, [-1]))[0]), "Unique"),
    "where": (lambda x: tf.reduce_sum(tf.where(x > 0)), "Where"),
}


@pytest.mark.parametrize(("name", "planted"), _LAYERS.items(), ids=list(_LAYERS))
def test_layer(name: str, planted: tuple[Any, str]) -> None:
    function, what = planted
    rule = name if name in RULES else "dynamic_shape"
    model = _model(layers.Dense(128), _Planted(function), layers.Dense(128))
    [finding] = lint(model)
    assert (finding.rule, finding.where) == (rule, "layer 'planted' (_Planted)")
    assert set(what.split(", ")) <= set(finding.what.split(", "))
    assert str(finding).startswith("error: " if finding.stops else "warning: ")
    assert str(finding).endswith(f"{RULES[rule].cure} [{rule}]")


def test_clean_model_of_all_sorts() -> None:
    model = _model(
        layers.Conv2D(128, 3, activation="relu"), layers.BatchNormalization(synchronized=True),
        layers.MaxPooling2D(), layers.Dropout(0.2), layers.Flatten(), layers.LayerNormalization(),
        layers.Dense(128), shape=(8, 8, 128),
        optimizer=keras.optimizers.AdamW(1e-3, global_clipnorm=1.0),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"],
    )  # fmt: skip
    assert lint(model) == ()


def test_layer_in_float64_is_named_once_and_not_what_follows_from_it() -> None:
    [finding] = lint(_model(layers.Dense(128), layers.Dense(128, dtype="float64", name="doubles")))
    assert (finding.rule, finding.where) == ("float64", "layer 'doubles' (Dense)")


def test_unknown_dimension() -> None:
    found = lint(_model(layers.Dense(128), shape=(None, 128)))
    assert ("unknown_dimension", "the batch's x") in [(each.rule, each.where) for each in found]


def test_strings_and_float64_in_the_batch() -> None:
    words = _model(
        layers.StringLookup(vocabulary=["a"]), layers.Embedding(2, 128), shape=(4,), dtype="string"
    )
    assert [(each.rule, each.where) for each in lint(words)] == [("string", "the batch's x")]
    batch = (tf.TensorSpec((8, 128), tf.float64), tf.TensorSpec((8, 128)))
    found = lint(_model(layers.Dense(128)), batch)
    assert ("float64", "the batch's x") in [(each.rule, each.where) for each in found]


def test_padding() -> None:
    model = _model(layers.Dense(130, name="just_over"), layers.Dense(250), layers.Dense(256))
    [finding] = lint(model)
    assert (finding.rule, finding.where) == ("pads_badly", "layer 'just_over' (Dense)")
    assert finding.what == "kernel of shape (128, 130)"
    [finding] = lint(_model(layers.Dense(256)), per_replica_batch_size=9)
    assert (finding.rule, finding.where) == ("pads_badly", "the batch")


class _HostMetric(keras.metrics.Metric):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__(name="planted")
        self.total = self.add_weight(shape=(), initializer="zeros", name="total")
        self._function = function

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        self.total.assign_add(self._function(y_pred))

    def result(self) -> Any:
        return self.total


@pytest.mark.parametrize(
    ("function", "rule"),
    [
        (lambda y: float(np.asarray(y).sum()), "does_not_trace"),
        (lambda y: tf.reshape(_python(y), [-1])[0], "python_function"),
    ],
    ids=["numpy", "py_function"],
)
def test_metric(function: Any, rule: str) -> None:
    [finding] = lint(_model(layers.Dense(128), metrics=["mae", _HostMetric(function)]))
    assert (finding.rule, finding.where) == (rule, "metric 'planted' (_HostMetric)")
    assert finding.stops


def test_loss_is_named_with_its_line() -> None:
    def planted_loss(y: Any, p: Any) -> Any:
        return tf.reduce_mean(tf.square(y - p), -1) + tf.cast(tf.size(tf.where(p > 0)), p.dtype)

    [finding] = lint(_model(layers.Dense(128), loss=planted_loss))
    assert finding.rule == "dynamic_shape"
    assert finding.where.startswith(f"loss 'planted_loss' ({__file__}:")


def test_what_stops_comes_first() -> None:
    found = lint(_model(layers.Dense(3), _Planted(_python)))
    assert [each.rule for each in found] == ["python_function", "pads_badly"]
    pairs = itertools.pairwise(found)
    assert all(one.stops >= other.stops for one, other in pairs)


def test_model_that_is_not_compiled() -> None:
    with pytest.raises(ValueError, match="compile"):
        lint(keras.Sequential([keras.Input((3,)), layers.Dense(2)]))
