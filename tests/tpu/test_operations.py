"""tests of tfdist/tpu/operations.py: who made what a TPU cannot run, wherever it hides"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import pytest
import tensorflow as tf

from tfdist.strategy import factory
from tfdist.tpu import example, operations, preflighting
from tfdist.tpu.program import make_program
from tfdist.tpu.scopes import Origins

layers = keras.layers


def _in_python(x: Any) -> Any:
    found = tf.numpy_function(lambda value: value, [x], x.dtype)
    found.set_shape(x.shape)
    return found


class Plain(layers.Layer):
    def call(self, x: Any) -> Any:
        return x + _in_python(x)


class Traced(layers.Layer):
    @tf.function
    def inner(self, x: Any) -> Any:
        return tf.cond(tf.reduce_sum(x) > 0, lambda: _in_python(x), lambda: x)

    def call(self, x: Any) -> Any:
        return x + self.inner(x)


class Backwards(layers.Layer):
    def call(self, x: Any) -> Any:
        @tf.custom_gradient
        def doubled(value: Any) -> Any:
            return 2 * value, lambda upstream: 2 * _in_python(upstream)

        return doubled(x)


def _loss(y: Any, p: Any) -> Any:
    return tf.reduce_mean(tf.square(p - y) + _in_python(p), axis=-1)


class Metric(keras.metrics.MeanMetricWrapper):
    def __init__(self) -> None:
        super().__init__(_loss, name="own")


def _model(*parts: Any, loss: Any = "mse", **options: Any) -> keras.Model:
    model = keras.Sequential([keras.Input((8,)), *parts, layers.Dense(3)])
    model.compile("sgd", loss, **options)
    return model


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (lambda: _model(Plain(name="odd")), "layer 'odd' (Plain)"),
        (lambda: _model(keras.Sequential([Plain(name="deep")])), "layer 'deep' (Plain)"),
        (lambda: _model(Traced(name="traced")), "layer 'traced' (Traced)"),
        (lambda: _model(layers.Dense(8), Backwards()), "operation 'PyFunc' ("),
        (lambda: _model(loss=_loss), "loss '_loss' ("),
        (lambda: _model(metrics=[Metric()]), "metric 'own' (Metric)"),
    ],
    ids=["layer", "nested", "function", "gradient", "loss", "metric"],
)
def test_what_has_no_kernel_is_named(build: Callable[[], keras.Model], told: str) -> None:
    model, origins = build(), Origins()
    specs = example.specs(model, rows=4)
    program = make_program(model, specs, origins=origins, num_replicas=8)
    with pytest.raises(ValueError, match="PyFunc") as caught:
        program.lower()
    found = preflighting._failure(caught.value, origins, program)
    assert found["where"].startswith(told)
    assert f"The operation PyFunc, in {found['where']}, has no kernel" in found["error"]
    if told.endswith(" ("):  # the line that made it is as good as a name
        assert f"{__file__}:" in found["where"]
    assert operations.first_of_kind(program, "PyFunc") == found["where"]
    assert operations.first_of_kind(program, "NoSuchKind") is None


def test_a_model_of_a_program_is_made_under_its_one_device() -> None:
    """As `tfdist preflight program.py` finds it: its optimizer is not built yet."""
    with factory.get_strategy("cpu").scope():
        model = _model(layers.Dense(4), metrics=["mae"])
        model.compile("adam", "mse")
    program = make_program(model, example.specs(model, rows=4), origins=Origins(), num_replicas=8)
    assert program.lower()
    assert program.optimizer_bytes > 2 * 4 * (8 * 4 + 4 + 4 * 3 + 3)
