"""tests of tfdist/tpu/scopes.py"""

from __future__ import annotations

from typing import Any

import keras
import pytest
import tensorflow as tf

from tfdist.tpu.scopes import Origins, recorded


def _traced(model: keras.Model, origins: Origins) -> list[str]:
    with recorded(model, origins):
        function = tf.function(lambda x: model(x, training=True), autograph=False)
        graph = function.get_concrete_function(tf.TensorSpec((2, 4))).graph
    return [operation.name for operation in graph.get_operations()]


def test_operations_are_told_apart_where_their_names_mislead() -> None:
    first, second = keras.layers.Dense(3, name="dense"), keras.layers.Dense(2, name="dense_1")
    model = keras.Sequential([keras.Input((4,)), first, second])
    origins = Origins()
    products = [name for name in _traced(model, origins) if name.endswith("MatMul")]
    assert [origins.of_operation(name) for name in products] == [
        "layer 'dense' (Dense)",
        "layer 'dense_1' (Dense)",
    ]
    assert origins.of_operation(f"gradient_tape/{products[0]}/Add") == "layer 'dense' (Dense)"
    assert origins.of_operation("elsewhere/MatMul") is None
    assert origins.of_message(f"because of {{{{node {products[1]}}}}}") == "layer 'dense_1' (Dense)"
    assert origins.of_message(f'metadata={{op_name="{products[0]}"}}') == "layer 'dense' (Dense)"
    assert origins.of_message("no name at all") is None


def test_innermost_layer_is_named() -> None:
    block = keras.Sequential([keras.layers.Dense(3, name="inner")], name="block")
    model = keras.Sequential([keras.Input((4,)), block])
    origins = Origins()
    [product] = [name for name in _traced(model, origins) if name.endswith("MatMul")]
    assert origins.of_operation(product) == "layer 'inner' (Dense)"
    assert origins.of_operation(product.rpartition("/inner")[0]) == "layer 'block' (Sequential)"


def test_layers_and_metrics_are_as_before_afterwards() -> None:
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse", metrics=["mae"])
    owners = [*model.layers, *model.metrics]
    before = [dict(vars(owner)) for owner in owners]
    with recorded(model, Origins()):
        assert "call" in vars(model.layers[0])
    assert [set(vars(owner)) for owner in owners] == [set(each) for each in before]


class _Failing(keras.layers.Layer):
    def call(self, inputs: Any) -> Any:
        raise NotImplementedError("planted")


def test_exception_is_led_back_to_the_innermost_layer() -> None:
    model = keras.Sequential([keras.layers.Dense(1), _Failing(name="culprit")])
    origins = Origins()
    with recorded(model, origins), pytest.raises(NotImplementedError) as failure:
        model(tf.zeros((2, 1)))
    assert origins.of_exception(failure.value) == "layer 'culprit' (_Failing)"


def test_exception_outside_of_layers_is_led_back_to_the_users_function() -> None:
    def users_loss() -> None:
        raise ValueError("planted")

    with pytest.raises(ValueError, match="planted") as failure:
        users_loss()
    origin = Origins().of_exception(failure.value)
    assert origin is not None
    assert origin.startswith("function 'users_loss' (")
